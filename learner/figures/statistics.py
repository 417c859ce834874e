"""Figures over attempts: pure functions that journal, evaluation and report share.

Invariants: infrastructure failures are left out by the caller; every interval is a percentile bootstrap with a fixed
seed, so that the same attempts give the same interval.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from envs.records import Outcome, Transition

VALID = frozenset({Outcome.EDITED, Outcome.NEUTRAL})
"""Outcomes of a valid action: it was parsed, applied and, where it runs something, ran to a graded submission."""

RESAMPLES = 2000


def gained(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]) -> dict[str, Any]:
    """`{gain, gain_ci}`: by how much the mean reward rose, with its 95 % bootstrap interval; nothing without attempts.

    before, after: rewards [n_i] of each task; tasks weigh equally.
    """
    if not all([before, *before, *after]):
        return {}
    rng = np.random.default_rng(0)
    draws = _resampled(list(map(np.array, after)), rng) - _resampled(list(map(np.array, before)), rng)
    rise = np.mean([np.mean(rewards) for rewards in after]) - np.mean([np.mean(rewards) for rewards in before])
    return {"gain": float(rise), "gain_ci": _quantiles(draws)}


def distinct(attempts: Sequence[Transition], outcomes: Collection[Outcome] = tuple(Outcome)) -> float | None:
    """How many different actions that ended as one of `outcomes` were tried from a state: the mean over states."""
    texts = {attempt.state_id: set() for attempt in attempts}
    for attempt in attempts:
        if attempt.outcome in outcomes:
            texts[attempt.state_id].add(attempt.info.text.strip())
    return float(np.mean([len(tried) for tried in texts.values()])) if texts else None


def bootstrap_interval(samples: Sequence[np.ndarray], level: float = 0.95) -> list[float] | None:
    """Percentile bootstrap interval of the mean of the samples' means; None without samples.

    samples: one float array [n_i] per task; each is resampled by itself (Efron and Tibshirani 1993, chapter 13).
    """
    return _quantiles(_resampled(samples, np.random.default_rng(0)), level) if samples else None


def over_tasks(values: Sequence[float]) -> list[float] | None:
    """95 % bootstrap interval of the mean of one value per task, over tasks; None of fewer than two."""
    return bootstrap_interval([np.array(values)]) if len(values) > 1 else None


def _resampled(samples: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """float64 [RESAMPLES]: the mean of the samples' means, each sample drawn again with replacement."""
    draws = [sample[rng.integers(len(sample), size=(RESAMPLES, len(sample)))].mean(axis=1) for sample in samples]
    return np.mean(draws, axis=0)


def _quantiles(draws: np.ndarray, level: float = 0.95) -> list[float]:
    return [float(bound) for bound in np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])]
