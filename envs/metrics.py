"""Metrics of graders that scikit-learn does not have. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike


def map_at_k(relevant: Iterable[Sequence[str]], ranked: Iterable[Sequence[str]], k: int) -> float:
    """Mean average precision of the first k of each ranking, as Kaggle defines it.

    relevant: of each query, at least one item; ranked: of each query, items, the best first. An item that comes again
    counts once.
    """
    return float(
        np.mean([_average_precision(set(hits), given, k) for hits, given in zip(relevant, ranked, strict=True)])
    )


def _average_precision(hits: set[str], given: Sequence[str], k: int) -> float:
    found, total = 0, 0.0
    for position, item in enumerate(list(dict.fromkeys(given))[:k], 1):
        if item in hits:
            found += 1
            total += found / position
    return total / min(len(hits), k)


def mcrmse(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Mean over columns of the root of the mean squared error; both [rows, columns]."""
    errors = np.asarray(truth, dtype=float) - np.asarray(prediction, dtype=float)
    return float(np.sqrt((errors**2).mean(axis=0)).mean())
