"""The best of k: against its definition over all subsets, and on a toy of which every outcome is counted."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.algorithm import best_of, policy_batch
from learner.algorithm.advantages import advantages
from learner.algorithm.best_of import Best
from learner.algorithm.policy_step import objective, row_loss
from learner.config.schema import RlConfig
from tests.transitions import transition

rewards_of_groups = st.lists(st.integers(-8, 8).map(lambda eighths: eighths / 8), min_size=2, max_size=8)


@settings(deadline=None, max_examples=40)
@given(rewards_of_groups, st.integers(1, 8))
def test_an_advantage_is_what_subsets_with_the_sample_are_better_by_and_a_groups_add_up_to_zero(rewards, k):
    got = best_of.advantages(np.array(rewards), Best(k))
    k = min(k, len(rewards) - 1)
    for one in range(len(rewards)):
        with_it, without = [], []
        for subset in itertools.combinations(range(len(rewards)), k):
            (with_it if one in subset else without).append(max(rewards[index] for index in subset))
        assert got[one] == pytest.approx(k * (statistics.fmean(with_it) - statistics.fmean(without)), abs=1e-9)
    assert got.sum() == pytest.approx(0, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(rewards_of_groups)
def test_the_best_of_one_is_the_mean_whatever_its_share(rewards):
    for algorithm in ("grpo", "rloo"):
        mean = advantages(algorithm, rewards, [0] * len(rewards), [True] * len(rewards)).values
        for best in (Best(1), Best(5, share=0.0)):
            got = advantages(algorithm, rewards, [0] * len(rewards), [True] * len(rewards), best).values
            assert got == pytest.approx(mean, abs=1e-9)


def test_leaving_two_out_of_the_estimate_with_its_own_baseline_comes_to_the_same():
    """arXiv 2606.06080: max(S) − max(S without i), less the mean of what the others have of it without i."""
    rewards, k = np.array([0.3, 0.9, 0.1, 0.7, 0.9]), 3

    def marginal(one: int, of: list[int]) -> float:
        """k · mean of max(S) − max(S without one), over the subsets of k of them with it."""
        others = itertools.combinations([index for index in of if index != one], k - 1)
        return k * statistics.fmean(
            max(rewards[[one, *rest]]) - max(rewards[list(rest)]) for rest in others
        )  # fmt: skip

    everyone = list(range(len(rewards)))
    for one, value in enumerate(best_of.advantages(rewards, Best(k))):
        left = [other for other in everyone if other != one]
        baseline = statistics.fmean(marginal(other, left) for other in left)
        assert value == pytest.approx(marginal(one, everyone) - baseline)


ARMS = (0.2, 0.9, 0.5)
"""Rewards of the three actions of a toy policy."""


@pytest.mark.parametrize("share", [1.0, 0.25])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_mean_of_all_outcomes_gradients_is_that_of_the_expected_maximum(k, share):
    """From configuration over batch to gradient, of four samples of one token."""
    rl = RlConfig(algorithm="rloo", objective="best_of", best_of=k, best_of_steps=4, actions=4)
    step = round(4 * share)
    scores = torch.tensor([0.1, -0.4, 0.3], dtype=torch.float64, requires_grad=True)

    probabilities = scores.softmax(0)
    expected = torch.zeros((), dtype=torch.float64)
    for outcome in itertools.product(range(3), repeat=k):
        expected = expected + math.prod(probabilities[arm] for arm in outcome) * max(ARMS[arm] for arm in outcome)
    mean = sum(p * r for p, r in zip(probabilities, ARMS, strict=True))
    (wanted,) = torch.autograd.grad(share * expected + (1 - share) * mean, scores, retain_graph=True)

    got = torch.zeros(3, dtype=torch.float64)
    logprobs = scores.log_softmax(0)
    for outcome in itertools.product(range(3), repeat=4):
        group = [transition(f"g.{n}", [7], [arm], ARMS[arm]) for n, arm in enumerate(outcome)]
        batch = policy_batch.build([group], 1, 100, rl, step=step)
        probability = math.prod(probabilities[arm].item() for arm in outcome)
        for row in batch.rows:
            of_tokens = logprobs[torch.from_numpy(row.row.target_ids).long()]
            known = of_tokens.detach()
            row.behaviour[:] = known.numpy()
            loss, _ = row_loss(row, of_tokens, torch.zeros_like(known), None, known, None, objective(rl))
            (gradient,) = torch.autograd.grad(loss, scores, retain_graph=True)
            got -= probability * gradient
    assert got.numpy() == pytest.approx(wanted.numpy(), abs=1e-6)
    assert abs(wanted).max() > 0.01


def test_the_objective_goes_from_the_mean_to_the_best():
    assert [best_of.annealed(4, step, 4).share for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert best_of.annealed(4, 0, 0) == Best(4, 1.0)


def test_episodes_are_samples_and_failures_are_none():
    """Two steps of an episode have its reward; without the failure three episodes are left."""
    names = ["0/0", "0/1", "1/0", "1/1", "2/0", "3/0"]
    rewards, valid = [1.0, 1.0, 3.0, 3.0, 2.0, 9.0], [True, True, True, True, True, False]
    samples = [name.partition("/")[0] for name in names]
    got = advantages("rloo", rewards, [0] * 6, valid, Best(2), samples).values
    of_episodes = best_of.advantages(np.array([1.0, 3.0, 2.0]), Best(2))
    assert got.tolist() == pytest.approx([of_episodes[0]] * 2 + [of_episodes[1]] * 2 + [of_episodes[2], 0])
