"""Metrics that scikit-learn does not have, against plain counts and figures worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.metrics import map_at_k, mcrmse

ITEMS = st.lists(st.sampled_from("abcdef"), max_size=8)


@pytest.mark.parametrize(
    ("relevant", "ranked", "k", "value"),
    [
        ("a", "ab", 5, 1.0),
        ("a", "bca", 5, 1 / 3),
        ("a", "bca", 2, 0.0),
        ("ab", "axb", 3, (1 + 2 / 3) / 2),
        ("abc", "ab", 2, 1.0),  # no more than k can be hit
        ("abc", "a", 5, 1 / 3),
        ("ab", "aab", 3, 1.0),  # an item that comes again takes no place
        ("a", "", 3, 0.0),
    ],
)
def test_average_precision_of_one_ranking(relevant, ranked, k, value):
    assert map_at_k([list(relevant)], [list(ranked)], k) == pytest.approx(value)


@given(st.lists(st.tuples(ITEMS.filter(bool), ITEMS), min_size=1, max_size=5), st.integers(1, 6))
def test_the_mean_is_over_queries_and_follows_the_definition(queries, k):
    def one(relevant, ranked):
        once = [item for place, item in enumerate(ranked) if item not in ranked[:place]][:k]
        hits = [item in relevant for item in once]
        return sum(sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit) / min(len(set(relevant)), k)

    expected = sum(one(*query) for query in queries) / len(queries)
    assert map_at_k([r for r, _ in queries], [g for _, g in queries], k) == pytest.approx(expected)


def test_rankings_of_another_number_of_queries_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        map_at_k([["a"], ["b"]], [["a"]], 3)


def test_mcrmse_is_the_mean_of_each_columns_root():
    truth, prediction = np.zeros((2, 2)), np.array([[3.0, 0.0], [4.0, 0.0]])
    assert mcrmse(truth, prediction) == pytest.approx(math.sqrt(12.5) / 2)
