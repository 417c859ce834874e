"""Advantages, emphasis and weights against hand-computed values, and a toy that shows what the emphasis is for."""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest

from learner.algorithm.advantages import advantages, duration_emphasis, token_weights


def test_grpo_is_normalised_within_each_group():
    result = advantages("grpo", [0, 1, 1, 2, 10, 20], [0, 0, 0, 0, 1, 1], [True] * 6)
    assert result.values.tolist() == pytest.approx([-math.sqrt(2), 0, 0, math.sqrt(2), -1, 1], abs=1e-5)
    assert result.informative.all()
    assert result.equal_groups == 0


def test_rloo_compares_each_reward_with_the_mean_of_the_others():
    result = advantages("rloo", [0, 3, 6, 1, 5], [0, 0, 0, 1, 1], [True] * 5)
    assert result.values.tolist() == pytest.approx([0 - 4.5, 3 - 3, 6 - 1.5, 1 - 5, 5 - 1])


def test_ppo_leaves_the_baseline_to_the_value_head():
    result = advantages("ppo", [2, 2, 7, 0], [0, 0, 1, 1], [True, True, False, True])
    assert result.values.tolist() == [2, 2, 0, 0]
    assert result.informative.tolist() == [True, True, False, True]
    assert result.equal_groups == 2


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_equal_lonely_and_masked_groups_are_reported_and_have_no_advantage(algorithm):
    rewards = [0.1] * 7 + [5, 6, 3, 4, 0, 1]
    valid = [True] * 7 + [False, False, True, False, True, True]
    result = advantages(algorithm, rewards, [0] * 7 + [1, 1, 2, 2, 3, 3], valid)
    assert result.equal_groups == 3
    assert result.values[:11].tolist() == [0.0] * 11
    assert result.informative.tolist() == [False] * 11 + [True] * 2


def test_emphasis_is_the_duration_over_its_mean_without_masked_members():
    for unit in (1, 0.001, 1000):
        assert duration_emphasis([unit, 100, 3 * unit], [True, False, True]).tolist() == pytest.approx([0.5, 1, 1.5])
    assert duration_emphasis([0, 0], [True, True]).tolist() == [1, 1]
    assert duration_emphasis([1, 2], [False, False]).tolist() == [1, 1]


@pytest.mark.parametrize(("aggregation", "expected"), [("token", [0.1, 0, 0.1]), ("sequence", [1 / 16, 0, 1 / 4])])
def test_weights_of_a_batch_add_up_to_one(aggregation, expected):
    weights = token_weights(aggregation, [8, 5, 2], [True, False, True])
    assert weights.tolist() == pytest.approx(expected)
    assert weights @ [8, 5, 2] == pytest.approx(1)


FAST, SLOW = 0, 1
SECONDS, REWARDS = np.array([1.0, 8.0]), np.array([0.6, 1.0])


def train_two_arms(weighted: bool) -> np.ndarray:
    """Probabilities of the arms after asynchronous REINFORCE: 32 workers each draw an arm, wait for its duration and
    draw again; the learner steps every 16 finished draws, and what was drawn too long ago is dropped as too stale."""
    rng, logits, max_staleness, step = np.random.default_rng(0), np.zeros(2), 3, 0

    def policy() -> np.ndarray:
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()

    def draw(now: float, worker: int) -> tuple:
        arm = int(rng.random() < policy()[SLOW])
        return now + SECONDS[arm] * rng.uniform(0.9, 1.1), worker, arm, step

    running = [draw(0.0, worker) for worker in range(32)]
    heapq.heapify(running)
    while step < 300:
        batch = []
        while len(batch) < 16:
            now, worker, arm, since = heapq.heappop(running)
            if step - since <= max_staleness:
                batch.append(arm)
            heapq.heappush(running, draw(now, worker))
        arms, mask = np.array(batch), [True] * len(batch)
        emphasis = duration_emphasis(SECONDS[arms], mask) if weighted else np.ones(len(arms))
        for arm, factor in zip(arms, emphasis, strict=True):
            logits += 0.2 / len(arms) * factor * REWARDS[arm] * (np.eye(2)[arm] - policy())
        step += 1
    return policy()


def test_weighting_by_duration_undoes_the_preference_for_a_fast_and_poor_arm():
    assert train_two_arms(weighted=False)[FAST] > 0.9
    assert train_two_arms(weighted=True)[SLOW] > 0.9
