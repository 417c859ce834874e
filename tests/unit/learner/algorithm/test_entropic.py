"""The entropic objective: its published formulas, their limits, and the gradient that they estimate."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from learner.algorithm import best_of, entropic
from learner.algorithm.algorithms import ALGORITHMS, advantages_of
from learner.algorithm.entropic import Entropic

REWARDS = np.array([0.0, 0.2, 0.2, 0.9, 0.5])
groups = st.lists(st.floats(-5, 5), min_size=2, max_size=12).map(np.array).filter(lambda of: of.std() > 1e-6)


def published(rewards: np.ndarray, beta: float) -> np.ndarray:
    """exp(β r) / E[exp(β r)] - 1, sample after sample."""
    mean = sum(math.exp(beta * r) for r in rewards) / len(rewards)
    return np.array([math.exp(beta * r) / mean - 1 for r in rewards])


@pytest.mark.parametrize("beta", [0.5, 2.0, 10.0])
def test_centred_advantages_are_those_of_the_papers(beta):
    fixed = advantages_of("centred", REWARDS, Entropic(beta, 1.0))
    assert fixed == pytest.approx(published(REWARDS, beta) / beta)
    budget = entropic.divergence(REWARDS, beta)
    assert advantages_of("centred", REWARDS, Entropic(0.0, budget)) == pytest.approx(published(REWARDS, beta))


@pytest.mark.parametrize("algorithm", ["centred", "rloo", "grpo"])
def test_with_a_small_beta_it_is_the_mean_and_with_a_large_one_the_best_alone_counts(algorithm):
    assert advantages_of(algorithm, REWARDS, Entropic(1e-7, 1.0)) == pytest.approx(
        ALGORITHMS[algorithm].advantages(REWARDS), abs=1e-5
    )
    steep = advantages_of("centred", REWARDS, Entropic(0.0, math.log(5) - 1e-6))
    assert steep == pytest.approx([-1, -1, -1, 4, -1], abs=1e-3), "n - 1 for the best"


@given(groups, st.floats(0.0, 50.0), st.floats(0.01, 2.0))
@example(np.array([0.0, 1.0]), 2.0**-52, 1.0)
def test_advantages_are_finite_add_up_to_zero_rise_with_rewards_and_a_budget_knows_no_scale(rewards, beta, budget):
    got = entropic.advantages(rewards, Entropic(beta, budget))
    assert np.isfinite(got).all() and got.sum() == pytest.approx(0, abs=1e-6 * max(1, np.abs(got).max()))
    order = np.argsort(rewards)
    assert (np.diff(got[order]) >= -1e-9).all()
    if not beta:
        assert entropic.divergence(rewards, entropic.budgeted(rewards, budget)) <= budget + 1e-9
        assert entropic.advantages(7 * rewards + 3, Entropic(0.0, budget)) == pytest.approx(got, abs=1e-4)


def test_where_too_many_are_the_best_for_the_budget_they_share_all_of_it():
    assert advantages_of("centred", np.array([1.0, 0.0, 1.0, 0.0]), Entropic(0.0, 1.0)) == pytest.approx([1, -1, 1, -1])


def test_its_expectation_comes_to_the_gradient_as_groups_grow():
    """Over all groups of a policy of three actions, exactly: the bias falls with the size of the group."""
    logits, worth, beta = np.array([0.3, -0.2, 0.1]), np.array([0.0, 1.0, 0.4]), 2.0
    policy = np.exp(logits) / np.exp(logits).sum()
    tilted = policy * np.exp(beta * worth)
    exact = (tilted / tilted.sum() - policy) / beta  # ∇ (1/β) log E[exp(β r)] by the logits
    biases = []
    for count in (2, 4, 7):
        mean = np.zeros(3)
        for group in itertools.product(range(3), repeat=count):
            rewards = worth[list(group)]
            if np.ptp(rewards):
                scores = np.eye(3)[list(group)] - policy
                mean += (
                    np.prod(policy[list(group)]) * entropic.advantages(rewards, Entropic(beta, 1.0)) @ scores / count
                )
        biases.append(np.abs(mean - exact).max())
    assert biases[0] > biases[1] > biases[2] and biases[2] < 0.1 * np.abs(exact).max(), biases


def test_it_favours_the_best_more_than_the_mean_does_and_less_one_sidedly_than_the_best_of_k():
    rewards = np.array([0.0, 0.6, 0.7, 1.0])
    mean, best = (ALGORITHMS["centred"].advantages(rewards), best_of.advantages(rewards, best_of.Best(3)))
    got = advantages_of("centred", rewards, Entropic(3.0, 1.0))
    shares = [of[3] / of[of > 0].sum() for of in (mean, got, best)]
    assert shares[0] < shares[1] <= shares[2] == 1
