"""Losses against hand-computed values and finite differences; learning-rate schedules."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from learner.losses import cross_entropy, group_advantages, ppo_clip_loss
from learner.schedules import warmup_constant, warmup_cosine


def test_advantages_are_normalised_within_each_group():
    rewards = torch.tensor([0.0, 1.0, 1.0, 2.0, 10.0, 20.0])
    result = group_advantages(rewards, torch.tensor([0, 0, 0, 0, 1, 1]), torch.ones(6, dtype=torch.bool))
    expected = [-math.sqrt(2), 0.0, 0.0, math.sqrt(2), -1.0, 1.0]
    assert result.values.tolist() == pytest.approx(expected, abs=1e-5)
    assert result.informative.all()
    assert result.equal_groups == 0


def test_masked_members_enter_no_statistic():
    rewards = torch.tensor([0.0, float("nan"), 1.0])
    result = group_advantages(rewards, torch.zeros(3, dtype=torch.int64), torch.tensor([True, False, True]))
    assert result.values.tolist() == pytest.approx([-1.0, 0.0, 1.0], abs=1e-5)
    assert result.informative.tolist() == [True, False, True]


def test_equal_and_fully_masked_groups_are_reported_and_have_no_advantage():
    rewards = torch.tensor([0.1] * 7 + [5.0, 6.0, 0.0, 1.0])
    groups = torch.tensor([0] * 7 + [1, 1, 2, 2])
    valid = torch.tensor([True] * 7 + [False, False, True, True])
    result = group_advantages(rewards, groups, valid)
    assert result.equal_groups == 2
    assert result.values[:9].tolist() == [0.0] * 9
    assert result.informative.tolist() == [False] * 9 + [True] * 2


def test_ppo_clip_by_hand():
    """Ratios 1, 1.5 and 0.5 with both signs of the advantage, clip 0.2."""
    logprobs = torch.log(torch.tensor([1.0, 1.5, 1.5, 0.5, 0.5])).requires_grad_()
    advantages = torch.tensor([2.0, 1.0, -1.0, 1.0, -1.0])
    result = ppo_clip_loss(logprobs, torch.zeros(5), advantages, clip=0.2, tokens=10)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(-(2.0 + 1.2 - 1.5 + 0.5 - 0.8) / 10)
    assert logprobs.grad.tolist() == pytest.approx([-0.2, 0.0, 0.15, -0.05, 0.0])
    assert result.clipped_sum.item() == 2
    assert result.ratio_sum.item() == pytest.approx(5.0)


@pytest.mark.parametrize("loss", ["policy", "supervised"])
def test_gradients_equal_finite_differences(loss):
    generator = torch.Generator().manual_seed(0)
    behaviour, noise, advantages = (torch.randn(12, generator=generator, dtype=torch.float64) for _ in range(3))
    logprobs = (behaviour + 0.3 * noise).requires_grad_()
    functions = {
        "policy": lambda x: ppo_clip_loss(x, behaviour, advantages, 0.2, 12).loss,
        "supervised": lambda x: cross_entropy(x, 12),
    }
    assert torch.autograd.gradcheck(functions[loss], logprobs)


def test_losses_of_parts_add_up():
    logprobs, advantages = torch.linspace(-2, 0, 6), torch.linspace(-1, 1, 6)
    whole = ppo_clip_loss(logprobs, torch.full((6,), -1.0), advantages, 0.2, 6).loss
    parts = [
        ppo_clip_loss(logprobs[part], torch.full((3,), -1.0), advantages[part], 0.2, 6).loss
        for part in (slice(0, 3), slice(3, 6))
    ]
    assert sum(parts) == pytest.approx(whole.item())


def test_schedules():
    rates = [warmup_cosine(step, 20, 1.0) for step in range(20)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[11] == pytest.approx(0.5)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[2:]))
    assert 0 < rates[-1] < 0.01
    assert warmup_cosine(0, 1, 1.0) == 1.0
    assert [warmup_constant(step, 3.0) for step in range(4)] == pytest.approx([1.0, 2.0, 3.0, 3.0])
