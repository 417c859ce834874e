"""What is computed again in the backward pass is what was computed first, and is not held in between."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from learner.algorithm.batching import Group, pack
from learner.model import attention, policy_model, recompute
from learner.model.policy_model import PolicyModel

CONFIG = LlamaConfig(
    vocab_size=300, hidden_size=64, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, attn_implementation=attention.ATTENTION,
)  # fmt: skip


@pytest.fixture
def stock(monkeypatch):
    """The function that runs a forward pass with everything held, as it would be without `recompute`."""

    def make(model: LlamaForCausalLM) -> PolicyModel:
        monkeypatch.setattr(policy_model, "lighten", lambda model: None)
        monkeypatch.setattr(attention, "again", lambda function, *args: function(*args))
        return PolicyModel(model)

    return make


def held_and_gradients(
    policy: PolicyModel, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, torch.Tensor, dict[str, torch.Tensor]]:
    """Bytes held for the backward pass, beside the weights; log-probs; gradients."""
    rng = np.random.default_rng(0)

    def ids(length: int) -> np.ndarray:
        return rng.integers(0, 300, length).astype(np.int32)

    (row,) = pack([Group(ids(40), tuple(ids(20) for _ in range(6)))], 200)
    weights = {parameter.untyped_storage().data_ptr() for parameter in policy.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def hold(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    def checkpoint(function, *args, **options):
        for tensor in torch.utils._pytree.tree_leaves(args):
            if isinstance(tensor, torch.Tensor):
                hold(tensor)
        return torch.utils.checkpoint.checkpoint(function, *args, **options)

    monkeypatch.setattr(recompute, "checkpoint", checkpoint)
    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        logprobs = policy(row)[0]
    held = sum(storage.nbytes() for storage in storages.values())
    logprobs.mean().backward()
    return held, logprobs.detach(), {name: one.grad for name, one in policy.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_the_same_to_the_bit_and_a_third_less_is_held(stock, dtype, monkeypatch):
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG).to(dtype)
    lighter = held_and_gradients(PolicyModel(copy.deepcopy(model)), monkeypatch)
    heavier = held_and_gradients(stock(model), monkeypatch)
    assert torch.equal(lighter[1], heavier[1])
    assert all(torch.equal(lighter[2][name], gradient) for name, gradient in heavier[2].items())
    assert lighter[0] < 0.67 * heavier[0], (lighter[0], heavier[0])


def test_nothing_is_computed_twice_without_a_backward_pass():
    calls = []
    with torch.no_grad():
        recompute.again(lambda one: calls.append(1) or one * 2, torch.ones(3, requires_grad=True))
    assert len(calls) == 1


def test_blocks_of_another_form_are_left_alone():
    block = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.SiLU())
    recompute.lighten(block)
    assert "forward" not in vars(block)
