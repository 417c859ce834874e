"""Losses against values computed by hand; learning-rate schedules."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from learner.algorithm import policy_step
from learner.algorithm.losses import Objective, Tokens, cross_entropy, policy_loss
from learner.algorithm.schedules import warmup_constant, warmup_cosine
from learner.config.load import load


def tokens(behaviour, advantages, **fields) -> Tokens:
    count = len(behaviour)
    given = {
        "behaviour": behaviour, "proximal": behaviour, "reference": None, "advantages": advantages,
        "weights": torch.full((count,), 1 / count, dtype=behaviour.dtype),
        "current": torch.zeros(count, dtype=torch.bool), "lengths": (count,),
    }  # fmt: skip
    return Tokens(**{**given, **fields})


def logs(*values: float) -> torch.Tensor:
    return torch.log(torch.tensor(values))


def test_an_objective_is_that_of_the_configuration_defaults_unless_said_otherwise():
    assert Objective() == policy_step.objective(load([]).rl)


def test_ppo_clip_by_hand():
    """Ratios 1, 1.5 and 0.5 with both signs of the advantage, clip 0.2."""
    logprobs = logs(1.0, 1.5, 1.5, 0.5, 0.5).requires_grad_()
    advantages = torch.tensor([2.0, 1.0, -1.0, 1.0, -1.0])
    result = policy_loss(logprobs, torch.zeros(5), tokens(torch.zeros(5), advantages), Objective(clip=0.2))
    result.loss.backward()
    assert result.loss.item() == pytest.approx(-(2.0 + 1.2 - 1.5 + 0.5 - 0.8) / 5)
    assert logprobs.grad.tolist() == pytest.approx([-0.4, 0.0, 0.3, -0.1, 0.0])
    assert result.clipped_sum.item() == 2
    assert result.ratios.sum().item() == pytest.approx(5.0)


def test_dual_clip_bounds_what_an_unlikely_token_with_a_bad_reward_can_do():
    logprobs = logs(50.0, 2.5, 50.0).requires_grad_()
    advantages = torch.tensor([-1.0, -1.0, 1.0])
    result = policy_loss(logprobs, torch.zeros(3), tokens(torch.zeros(3), advantages), Objective(dual_clip=3.0))
    result.loss.backward()
    assert result.loss.item() == pytest.approx((3.0 + 2.5 - 1.2) / 3)
    assert logprobs.grad.tolist() == pytest.approx([0.0, 2.5 / 3, 0.0])


@pytest.mark.parametrize(("correction", "importance"), [("decoupled", 4.0), ("truncated", 2.0)])
def test_corrections_weight_every_token_and_clip_around_the_proximal_policy(correction, importance):
    """Proximal over behaviour is 4 for all, also where engine and learner have the same weights: the first is current.
    The ratio to the proximal policy is 1, 1 and 1.5."""
    behaviour, proximal = logs(0.1, 0.1, 0.1), logs(0.4, 0.4, 0.4)
    logprobs = logs(0.4, 0.4, 0.6).requires_grad_()
    known = tokens(behaviour, torch.ones(3), proximal=proximal, current=torch.tensor([True, False, False]))
    result = policy_loss(logprobs, torch.zeros(3), known, Objective(correction=correction, cap=2.0))
    result.loss.backward()
    assert result.loss.item() == pytest.approx(-importance * (1 + 1 + 1.2) / 3)
    assert logprobs.grad.tolist() == pytest.approx([-importance / 3, -importance / 3, 0.0])
    assert result.importance_max.item() == pytest.approx(importance)


def test_weights_and_masks_of_responses_are_of_each_by_itself():
    """Two responses of two tokens, of ratios 2 and 0.5, and 4 and 3."""
    known = tokens(torch.zeros(4), torch.ones(4), proximal=logs(2.0, 0.5, 4.0, 3.0), lengths=(2, 2))
    weights = {}
    for level, mask in (("token", "token"), ("sequence", "none"), ("token", "sequence"), ("token", "geometric")):
        aim = Objective(correction="truncated", correction_level=level, cap=3.5, mask=mask, mask_low=0.6, mask_high=3.2)
        result = policy_loss(known.proximal.clone().requires_grad_(), torch.zeros(4), known, aim)
        weights[level, mask] = (-4 * result.parts).tolist()
        assert result.rejected_sum.item() == {"token": 2, "none": 0}.get(mask, 2)
    assert weights["token", "token"] == pytest.approx([2, 0, 0, 3])
    assert weights["sequence", "none"] == pytest.approx([1, 1, 3.5, 3.5])
    assert weights["token", "sequence"] == weights["token", "geometric"] == pytest.approx([2, 0.5, 0, 0])
    long = tokens(torch.zeros(400), torch.zeros(400), proximal=torch.ones(400))
    aim = Objective(correction="decoupled", correction_level="sequence")
    assert policy_loss(torch.ones(400), torch.zeros(400), long, aim).loss.isfinite(), "a product of 400 ratios"


def test_kl_is_the_k3_estimate_and_entropy_is_rewarded():
    logprobs, reference = logs(0.5, 0.25).requires_grad_(), logs(0.25, 0.25)
    known = tokens(logprobs.detach(), torch.zeros(2), reference=reference)
    entropy = torch.tensor([0.3, 0.5], requires_grad=True)
    result = policy_loss(logprobs, entropy, known, Objective(kl=0.1, entropy=0.01))
    result.loss.backward()
    assert result.kl_sum.item() == pytest.approx(0.5 - math.log(0.5) - 1)
    assert result.loss.item() == pytest.approx((0.1 * (0.5 - math.log(0.5) - 1) - 0.01 * 0.8) / 2)
    assert logprobs.grad.tolist() == pytest.approx([0.1 * (1 - 0.5) / 2, 0.0])
    assert entropy.grad.tolist() == pytest.approx([-0.005, -0.005])


def test_the_supervised_loss_of_any_split_adds_up_to_the_batchs_cross_entropy():
    scores, targets = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 5
    logprobs = scores.log_softmax(1)[range(7), targets]
    parts = cross_entropy(logprobs[:3], 7) + cross_entropy(logprobs[3:], 7)
    assert parts.item() == pytest.approx(torch.nn.functional.cross_entropy(scores, targets).item())


def test_schedules():
    rates = [warmup_cosine(step, 20, 1.0) for step in range(20)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[11] == pytest.approx(0.5)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[2:]))
    assert 0 < rates[-1] < 0.01
    assert warmup_cosine(0, 1, 1.0) == 1.0
    assert [warmup_constant(step, 3.0) for step in range(4)] == pytest.approx([1.0, 2.0, 3.0, 3.0])
