"""The packed forward and backward pass equals running each prompt + response on its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PhiConfig, Qwen2Config

from learner.algorithm.batching import Group, Segment, pack
from learner.model import attention, log_prob_head
from learner.model.policy_model import PolicyModel, UnsupportedModelError

SHAPE = {
    "vocab_size": 199, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2,
}  # fmt: skip
TEMPERATURE = 0.7
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
MODELS = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=False),
}


def build(config, implementation: str):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=implementation)


def groups() -> list[Group]:
    """The second prompt begins the first, which begins as the third does; the fourth is apart."""
    rng = np.random.default_rng(0)
    common = rng.integers(0, 199, 9)
    return [
        Group(
            np.concatenate([common[:shared], rng.integers(0, 199, own)]).astype(np.int32),
            tuple(rng.integers(0, 199, length).astype(np.int32) for length in lengths),
        )
        for shared, own, lengths in ((9, 2, (7, 1, 9)), (9, 0, (5, 2)), (6, 17, (3, 4, 8)), (0, 1, (4, 6)))
    ]


def plain(config) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Log-probs and entropies of all response tokens in batch order, and gradients of a weighted sum of both."""
    model = build(config, "eager")
    logprobs, entropies = [], []
    for group in groups():
        for response in group.responses:
            ids = torch.from_numpy(np.concatenate([group.prompt_ids, response])).long()
            logits = model(ids[None]).logits[0, len(group.prompt_ids) - 1 : -1] / TEMPERATURE
            distribution = torch.distributions.Categorical(logits=logits)
            logprobs.append(distribution.log_prob(torch.from_numpy(response).long()))
            entropies.append(distribution.entropy())
    logprobs, entropies = torch.cat(logprobs), torch.cat(entropies)
    ((logprobs - 0.3 * entropies) * weights(len(logprobs))).sum().backward()
    return logprobs.detach(), entropies.detach(), {n: p.grad for n, p in model.named_parameters()}


def weights(length: int) -> torch.Tensor:
    return torch.linspace(-1, 1, length)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("row_tokens", [200, 32])
@pytest.mark.parametrize("dense", [attention.DENSE, 0])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("device", DEVICES)
def test_packed_rows_equal_single_sequences(device, name, dense, row_tokens, checkpointing, monkeypatch):
    monkeypatch.setattr(attention, "DENSE", dense)
    monkeypatch.setattr(attention, "DENSE_PROMPT", dense)
    monkeypatch.setattr(log_prob_head, "CHUNK", 5)
    monkeypatch.setattr(log_prob_head, "BLOCK", 2)
    expected_logprobs, expected_entropies, expected_grads = plain(MODELS[name])
    model = PolicyModel(build(MODELS[name], attention.ATTENTION)).train().to(device)
    if checkpointing:
        model.model.gradient_checkpointing_enable({"use_reentrant": False})
    logprobs, entropies = torch.empty_like(expected_logprobs), torch.empty_like(expected_entropies)
    rows = pack(groups(), row_tokens)
    for row in rows:
        index = torch.from_numpy(row.token_index).long()
        got, entropy, features = (one.cpu() for one in model(row, TEMPERATURE))
        ((got - 0.3 * entropy) * weights(len(logprobs))[index]).sum().backward()
        logprobs[index], entropies[index] = got.detach(), entropy.detach()
        assert features.shape == (len(row.groups), 64)
    assert (len(rows) == 1) == (row_tokens == 200)
    torch.testing.assert_close(logprobs, expected_logprobs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropies, expected_entropies, rtol=1e-5, atol=1e-5)
    grads = {parameter_name: p.grad for parameter_name, p in model.model.named_parameters()}
    assert grads.keys() == expected_grads.keys()
    for parameter_name, expected in expected_grads.items():
        error = (grads[parameter_name].cpu() - expected).norm() / expected.norm()
        assert error < 1e-5, f"{parameter_name}: relative error {error}"


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("row_tokens", [200, 32])
def test_the_blocks_for_a_gpu_let_each_token_see_the_same(row_tokens):
    """A CPU has the forward pass of this attention only; where there is a GPU, the test above has its backward pass."""
    decoder = PolicyModel(build(MODELS["llama"], attention.ATTENTION)).model.get_decoder()
    for row in pack(groups(), row_tokens):
        ids, positions = torch.tensor(row.input_ids)[None], torch.tensor(row.position_ids)[None]
        blocks = attention.block_mask(row.segments, ids.device)
        expected, got = (
            decoder(ids, position_ids=positions, use_cache=False, segments=row.segments, blocks=one).last_hidden_state
            for one in (None, blocks)
        )
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", [1, 4, 16])
def test_a_block_is_left_out_only_where_no_token_of_it_is_seen_and_whole_only_where_all_are(block, monkeypatch):
    monkeypatch.setattr(attention, "FLEX_BLOCK", block)
    for row in pack(groups(), 200):
        until = attention.seen_until(row.segments, torch.device("cpu")).tolist()
        mask = attention.block_mask(row.segments, torch.device("cpu"))
        partly, wholly = (
            {
                (query, key)
                for query, (count, keys) in enumerate(zip(counts[0, 0].tolist(), order[0, 0].tolist(), strict=True))
                for key in keys[:count]
            }
            for counts, order in (
                (mask.kv_num_blocks, mask.kv_indices), (mask.full_kv_num_blocks, mask.full_kv_indices),
            )
        )  # fmt: skip
        seen = {
            (query // block, key // block)
            for query in range(len(until)) for key in range(query + 1) if query < until[key]
        }  # fmt: skip
        assert seen <= partly | wholly and not partly & wholly
        for query_block, key_block in wholly:
            queries = range(query_block * block, (query_block + 1) * block)
            keys = range(key_block * block, (key_block + 1) * block)
            assert all(key <= query < until[key] for query in queries for key in keys)


def test_features_are_of_the_prompts_alone_and_carry_no_gradient():
    model = PolicyModel(build(MODELS["llama"], attention.ATTENTION))
    alone = [model(pack([group], 200)[0])[2][0] for group in groups()]
    (row,) = pack(groups(), 200)
    features = model(row)[2]
    torch.testing.assert_close(features, torch.stack([alone[group] for group in row.groups]))
    assert not features.requires_grad


REFUSED = {
    "full attention": Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "capped logits": Gemma2Config(**SHAPE, layer_types=["full_attention"] * 2, final_logit_softcapping=30.0),
    "a bias": PhiConfig(**SHAPE),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_models_that_the_rows_or_the_head_would_change_are_refused(reason):
    with pytest.raises(UnsupportedModelError, match=reason):
        PolicyModel(build(REFUSED[reason], attention.ATTENTION))


@pytest.mark.parametrize("dense", [attention.DENSE, 0])
def test_attention_has_the_scale_that_the_model_asks_for(dense, monkeypatch):
    monkeypatch.setattr(attention, "DENSE", dense)
    monkeypatch.setattr(attention, "DENSE_PROMPT", dense)
    query, key, value = torch.randn(3, 1, 2, 7, 8).unbind()
    got, _ = attention.segment_attention(None, query, key, value, None, scaling=0.1, segments=[Segment(4, (3,))])
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.1)
    torch.testing.assert_close(got, expected.transpose(1, 2))
