"""Advantages and weights against hand-computed values."""

from __future__ import annotations

import math

import pytest

from learner.algorithm.advantages import advantages, token_weights


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


@pytest.mark.parametrize(
    ("aggregation", "expected", "total"),
    [
        ("token", [0.1, 0, 0.1], 1),
        ("sequence", [1 / 16, 0, 1 / 4], 1),
        ("sequence_sum", [1 / 2, 0, 1 / 2], 5),
        ("constant", [1 / 40, 0, 1 / 40], 1 / 4),
    ],
)
def test_weights_are_of_what_is_not_masked(aggregation, expected, total):
    weights = token_weights(aggregation, [8, 5, 2], [True, False, True], 20)
    assert weights.tolist() == pytest.approx(expected)
    assert weights @ [8, 5, 2] == pytest.approx(total)
    assert token_weights(aggregation, [3], [False], 20).tolist() == [0.0]
