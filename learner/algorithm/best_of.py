"""The expected best of k samples, and what each sample of a group is worth to its gradient; pure functions.

Invariants: Σ advantage_i · ∇log π(x_i) / n over the n samples of a group is an unbiased estimate of ∇E[max of k],
whatever the rewards; the advantages of a group add up to zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Best:
    """What is maximised beside the mean."""

    k: int
    """The best of so many samples."""
    share: float = 1.0
    """Of it in the objective; the rest is the mean."""


def expected_best(rewards: np.ndarray, k: int) -> float:
    """Mean of the maximum over all subsets of k of the n rewards, an unbiased estimate of E[max of k]; k ≤ n.

    Of the rewards in order, the j-th (0 … n−1) is the largest of C(j, k−1) subsets: PKPO, arXiv 2505.15201, eq. 12.
    """
    count = len(rewards)
    largest_of = [math.comb(place, k - 1) / math.comb(count, k) for place in range(count)]
    return float(np.sort(rewards) @ np.array(largest_of))


def advantages(rewards: np.ndarray, best: Best) -> np.ndarray:
    """float64 [n] of the rewards of n ≥ 2 samples: n · (estimate of the objective − the same without sample i).

    For the best of k that is PKPO's estimate with its leave-one-out baseline (arXiv 2505.15201, section 3.3) times n,
    and what a leave-two-out baseline makes of its other one, which alone is not centred (arXiv 2606.06080): both come
    to k · (mean maximum of the subsets with i − of those without). For the mean, and k = 1, it is rloo. Where fewer
    samples are left than k + 1, it is of the best of all but one.
    """
    count = len(rewards)
    k = min(best.k, count - 1)

    def objective(of: np.ndarray) -> float:
        return best.share * expected_best(of, k) + (1 - best.share) * float(of.mean())

    whole = objective(rewards)
    return np.array([count * (whole - objective(np.delete(rewards, index))) for index in range(count)])


def annealed(k: int, step: int, steps: int) -> Best:
    """The objective of learner step `step` (0, 1, …), which goes from the mean to the best of k over so many steps."""
    return Best(k, min(1.0, step / steps) if steps else 1.0)
