"""Metrics against values computed by hand."""

import numpy as np
import pytest

from envs.metrics import map_at_k, mcrmse


@pytest.mark.parametrize(
    ("relevant", "ranked", "expected"),
    [
        (["a"], ["a", "b"], 1.0),
        (["a"], ["b", "a"], 1 / 2),
        (["a", "b"], ["a", "c", "b"], (1 / 1 + 2 / 3) / 2),
        (["a", "b", "c", "d"], ["a", "b", "c"], 1.0),  # no ranking of three can find more
        (["a"], ["a", "a", "a"], 1.0),  # an item that comes again counts once
        (["a"], ["x", "y", "z", "a"], 0.0),  # found too late
        (["a"], [], 0.0),
    ],
)
def test_average_precision_of_one_ranking(relevant, ranked, expected):
    assert map_at_k([relevant], [ranked], 3) == pytest.approx(expected)
    assert map_at_k([relevant, ["q"]], [ranked, []], 3) == pytest.approx(expected / 2)


def test_the_mean_is_over_columns_of_the_root_of_each():
    truth = np.array([[0.0, 0.0], [0.0, 0.0]])
    assert mcrmse(truth, [[1.0, 3.0], [1.0, 4.0]]) == pytest.approx((1.0 + np.sqrt(12.5)) / 2)
    assert mcrmse(truth, truth) == 0.0
