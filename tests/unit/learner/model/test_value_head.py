"""PPO's baseline: it learns as fast in a wide model as in a narrow one, whatever rows it is given."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from learner.algorithm import batching
from learner.algorithm.policy_batch import PolicyRow
from learner.model.value_head import Seen, ValueHead, seen

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_rank(monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)


def states(width: int, returns: list[float], seed: int = 0) -> Seen:
    """Of one token each, their features drawn at random."""
    features = F.normalize(torch.randn(len(returns), width, generator=torch.Generator().manual_seed(seed)), dim=-1)
    weights = torch.full((len(returns),), 1 / len(returns))
    return Seen(features, torch.arange(len(returns)), torch.tensor(returns), weights)


@pytest.mark.parametrize("width", [32, 576, 8192])
def test_a_step_moves_v_as_far_in_every_width(width):
    head, of_one = ValueHead(width, 0.05, CPU), states(width, [1.0])
    head.learn([of_one], steps=1)
    assert head(of_one.features).item() == pytest.approx(0.05 * (1 + (2 / np.pi) ** 0.5), rel=0.2)


def test_v_tells_states_apart_and_how_rows_are_dealt_out_does_not_matter():
    head, split, whole = ValueHead(576, 0.05, CPU), ValueHead(576, 0.05, CPU), states(576, [0.9, 0.1, 0.5])
    parts = [
        Seen(whole.features[[i]], torch.tensor([0]), whole.returns[[i]], whole.weights[[i]]) for i in range(3)
    ]  # fmt: skip
    for _ in range(8):  # batches
        head.learn([whole], steps=10)
        split.learn(parts, steps=10)
    assert head(whole.features).tolist() == pytest.approx([0.9, 0.1, 0.5], abs=0.05)
    assert split(whole.features).tolist() == pytest.approx(head(whole.features).tolist(), abs=1e-3)


def policy_row() -> PolicyRow:
    """Two responses of two tokens to one prompt, rewarded with 1 and 0.8."""
    (row,) = batching.pack([batching.Group(np.array([1, 2]), (np.array([3, 4]), np.array([5, 6])))], 20)
    rewards = np.repeat(np.array([1.0, 0.8], np.float32), 2)
    old = np.full(4, -1.0, np.float32)
    return PolicyRow(row, old, rewards, np.full(4, 0.25, np.float32), current=np.ones(4, bool))


def test_a_filler_row_teaches_nothing():
    head, row = ValueHead(16, 0.5, CPU), policy_row()
    nothing = dataclasses.replace(row, weights=np.zeros(4, np.float32))
    head.learn([seen(F.normalize(torch.ones(1, 16), dim=-1), nothing)], steps=3)
    assert all(not parameter.any() for parameter in head.parameters())
