"""Adapters: what they multiply by is what is served, gradients are those of it, and peft reads what is written."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from learner.algorithm.batching import pack
from learner.model import lora
from learner.model.attention import ATTENTION
from learner.model.policy_model import PolicyModel, UnsupportedModelError
from tests.unit.learner.model.test_policy_model import MODELS, SHAPE, build, groups, weights

LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
CONFIG = LlamaConfig(**SHAPE, tie_word_embeddings=True)


def trained(dtype: torch.dtype = torch.float32, targets=(), config=CONFIG) -> PolicyModel:
    """A model whose adapters are not as they were at first."""
    policy = PolicyModel(build(config, ATTENTION).to(dtype))
    lora.attach(policy.model, 4, 8.0, targets, seed=0)
    torch.manual_seed(1)
    for _, (_, b, _) in sorted(lora.adapters(policy.model).items(), key=lambda pair: pair[0].shape):
        torch.nn.init.normal_(b, std=0.05)
    return policy.train()


def served(policy: PolicyModel) -> dict[str, torch.Tensor]:
    added = lora.adapters(policy.model)
    named = lora.weights(policy.model)
    with torch.no_grad():
        return {name: lora.merged(one, *added[one]) if one in added else one.detach() for name, one in named}


@pytest.mark.parametrize("name", MODELS)
def test_the_forward_pass_is_that_of_the_model_which_is_served_to_the_bit(name):
    policy = trained(torch.bfloat16, config=MODELS[name])
    stock = build(MODELS[name], ATTENTION).to(torch.bfloat16)
    assert served(policy).keys() == dict(stock.named_parameters()).keys()
    before = {name: one.clone() for name, one in stock.named_parameters()}
    stock.load_state_dict(served(policy), strict=False)
    assert {n for n, one in stock.named_parameters() if not torch.equal(one, before[n])} == {
        n for n in before if n.split(".")[-2] in LINEAR and n.endswith("weight")
    }
    (row,) = pack(groups(), 200)
    with torch.no_grad():
        for got, wanted in zip(policy(row, 0.7), PolicyModel(stock)(row, 0.7), strict=True):
            assert torch.equal(got, wanted)


def test_a_change_below_the_rounding_of_a_weight_is_no_part_of_the_forward_pass():
    policy = trained(torch.bfloat16)
    (row,) = pack(groups(), 200)
    with torch.no_grad():
        for _, b, _ in lora.adapters(policy.model).values():
            b.mul_(1e-6)
        got = policy(row)[0]
    assert torch.equal(got, PolicyModel(build(CONFIG, ATTENTION).to(torch.bfloat16))(row)[0])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_merged_weights(checkpointing):
    policy = trained()
    if checkpointing:
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    (row,) = pack(groups(), 200)

    def loss(logprobs, entropy, _):
        return ((logprobs - 0.3 * entropy) * weights(len(logprobs))).sum()

    loss(*policy(row)).backward()
    plain = PolicyModel(build(CONFIG, ATTENTION))
    values = served(policy)
    plain.model.load_state_dict(values, strict=False)
    loss(*plain(row)).backward()
    of_weight = dict(plain.model.named_parameters())
    added = lora.adapters(policy.model)
    for name, weight in lora.weights(policy.model):
        assert weight.grad is None, name
        if weight in added:
            a, b, scale = added[weight]
            full = of_weight[name].grad
            torch.testing.assert_close(a.grad, scale * b.detach().T @ full, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(b.grad, scale * full @ a.detach().T, rtol=1e-4, atol=1e-5)


def test_in_bfloat16_gradients_are_as_near_as_its_rounding():
    torch.manual_seed(0)
    x, weight = torch.randn(50, 64, dtype=torch.bfloat16, requires_grad=True), torch.randn(96, 64).bfloat16()
    a, b = torch.randn(4, 64, requires_grad=True), torch.randn(96, 4, requires_grad=True)
    up = torch.randn(50, 96)
    lora._Product.apply(x, weight, None, a, b, 0.5).backward(up.bfloat16())
    exact = [one.detach().double().requires_grad_() for one in (x, a, b)]
    F.linear(exact[0], weight.double() + 0.5 * exact[2] @ exact[1]).backward(up.bfloat16().double())
    for got, wanted in zip((x, a, b), exact, strict=True):
        assert (got.grad.double() - wanted.grad).norm() < 0.01 * wanted.grad.norm()


def test_peft_loads_what_is_written_and_the_base_model_is_as_before(tmp_path):
    policy = trained()
    values = {name: one.detach() for name, one in lora.adapter_parameters(policy.model)}
    lora.write(tmp_path, policy.model, values, "organisation/name")
    loaded = PeftModel.from_pretrained(build(CONFIG, "eager"), tmp_path)
    merged = build(CONFIG, "eager")
    merged.load_state_dict(served(policy), strict=False)
    ids = torch.arange(30)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, merged(ids).logits, rtol=0, atol=1e-4)
    assert (loaded(ids).logits - build(CONFIG, "eager")(ids).logits).abs().max() > 0.1


def test_the_reference_is_the_policy_as_it_was_held(tmp_path):
    policy = trained(torch.bfloat16)
    (row,) = pack(groups(), 200)
    with torch.no_grad():
        before = policy(row)[0]
        values = {name: one.detach() for name, one in lora.adapter_parameters(policy.model)}
        lora.write(tmp_path, policy.model, values, "organisation/name")
        lora.hold_reference(policy.model, tmp_path)
        for a, b, _ in lora.adapters(policy.model).values():
            a.add_(1), b.mul_(3)
        with lora.as_reference(policy.model):
            assert torch.equal(policy(row)[0], before)
        assert not torch.equal(policy(row)[0], before)


def test_only_the_named_layers_have_adapters():
    policy = trained(targets=["q_proj", "down_proj"])
    assert {name.rpartition(".")[2] for name, _ in lora.layers(policy.model)} == {"q_proj", "down_proj"}
    assert {one.dtype for _, one in lora.adapter_parameters(policy.model)} == {torch.float32}
    assert all(one.requires_grad == (".lora_" in name) for name, one in policy.model.named_parameters())


@pytest.mark.parametrize(
    "config, rank, targets, said",
    [
        (CONFIG, 4, ["w_pack"], "learner.lora.targets=.*w_pack"),
        (CONFIG, 4, ["q_proj", "w_pack"], "no linear layer w_pack"),
        (CONFIG, 33, [], "learner.lora.rank=33 is above the width of model.layers.0.self_attn.k_proj, 32"),
        (CONFIG, 4, ["embed_tokens"], "Embedding, which learner.lora does not know"),
        (GPT2Config(vocab_size=199, n_embd=32, n_layer=1, n_head=2), 4, [], "is a Conv1D, which learner.lora"),
    ],
)
def test_what_cannot_have_adapters_is_refused(config, rank, targets, said):
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises((lora.LoraError, UnsupportedModelError), match=said):
        lora.attach(model, rank, 8.0, targets, seed=0)
