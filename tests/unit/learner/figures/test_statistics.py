"""Intervals are as wide as theory says and cover as often as they say; tasks weigh the same."""

from __future__ import annotations

import math

import numpy as np
import pytest

from learner.figures.statistics import bootstrap_interval, gained

MANY = 1000
Z = {0.5: 0.6745, 0.9: 1.645, 0.95: 1.96}
"""Half the width of the interval of a mean, in standard errors."""


def normal(mean: float, deviation: float, size: int = MANY, seed: int = 1) -> np.ndarray:
    """Of exactly that mean and deviation."""
    values = np.random.default_rng(seed).normal(size=size)
    return mean + deviation * (values - values.mean()) / values.std()


@pytest.mark.parametrize(("level", "z"), Z.items())
def test_an_interval_is_as_wide_as_its_level_says(level, z):
    half = z * 2.0 / math.sqrt(MANY)
    low, high = bootstrap_interval([normal(5.0, 2.0)], level)
    assert (low, high) == pytest.approx((5.0 - half, 5.0 + half), abs=0.08 * half)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    intervals = [bootstrap_interval([rng.normal(0.4, 0.1, 40), rng.normal(0.6, 0.3, 40)]) for _ in range(400)]
    assert 0.92 < np.mean([low < 0.5 < high for low, high in intervals]) < 0.98


def test_intervals_are_95_per_cent_ones_unless_said_otherwise():
    samples = [normal(5.0, 2.0)]
    assert bootstrap_interval(samples) == bootstrap_interval(samples, 0.95) == bootstrap_interval(samples)
    assert bootstrap_interval([]) is None


def test_tasks_weigh_the_same_however_often_they_were_tried():
    """The deviation of the mean of two means is half the root of the sum of their squared errors."""
    often, seldom = normal(0.0, 1.0), normal(10.0, 1.0, size=40, seed=2)
    half = Z[0.95] * math.sqrt(1 / often.size + 1 / seldom.size) / 2
    assert bootstrap_interval([often, seldom]) == pytest.approx([5.0 - half, 5.0 + half], abs=0.1 * half)


def test_a_gain_is_as_uncertain_as_both_sides_together():
    before = [normal(0.2, 1.0), normal(0.4, 1.0, seed=2)]
    after = [normal(0.5, 1.0, size=100, seed=3), normal(1.1, 1.0, size=200, seed=4)]
    before, after = [list(one) for one in before], [list(one) for one in after]
    found = gained(before, after)
    half = Z[0.95] * math.sqrt(2 / MANY + 1 / 100 + 1 / 200) / 2
    assert found["gain"] == pytest.approx(0.5)
    assert found["gain_ci"] == pytest.approx([0.5 - half, 0.5 + half], abs=0.1 * half)
    assert gained(before, after) == found
    assert gained(after, before)["gain"] == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("before", "after"), [([], []), ([[]], [[1.0]]), ([[1.0]], [[]]), ([[1.0], []], [[1.0], [1.0]])]
)
def test_nothing_is_gained_over_nothing(before, after):
    assert gained(before, after) == {}
