"""The entropic objective, which weighs high rewards more, and what each sample of a group is worth to it. Pure.

It is (1/β) · log E[exp(β r)], between the mean (β → 0) and the best (β → ∞): risk-sensitive RL (Howard and Matheson
1972; for language models RS-GRPO). Its policy gradient weighs a sample by w = exp(β r) / E[exp(β r)]; less its mean,
which is 1, that is (w - 1) / β. With β chosen in each group so that the weights are a budget of nats away from uniform,
whatever the scale of the rewards, it is w - 1: TTT-Discover (arXiv 2601.16175, section 3.2; the budget there: log 2).

Invariants: the advantages of a group add up to zero and are finite, whatever the rewards and β; E[exp(β r)] is the
group's mean, so that their expectation is the gradient only as groups grow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

STEEPEST = 1e6
"""β over the range of a group's rewards where no β uses the budget up, since too many are equally the best."""
HALVINGS = 60
"""Of the interval in which β is looked for: to the last digit."""


@dataclass(frozen=True)
class Entropic:
    """What is maximised in the place of the mean."""

    beta: float
    """0: as the budget has it, in each group."""
    budget: float
    """Nats, above 0: divergence of the weights of a group from equal ones."""


def advantages(rewards: np.ndarray, of: Entropic) -> np.ndarray:
    """float64 [n] of the rewards of n ≥ 2 samples, which differ; n / (n - 1) times those above, so that with β → 0 it
    is rloo as the advantages of `best_of` are with k = 1, and `centred` makes of it what stands above."""
    count = len(rewards)
    beta = of.beta or budgeted(rewards, of.budget)
    less_one = np.expm1(beta * (rewards - rewards.max()))  # exp is 1 to the last digit where β is small
    weights_less_one = (less_one - less_one.mean()) / (1 + less_one.mean())
    return weights_less_one / (of.beta or 1.0) * count / (count - 1)


def budgeted(rewards: np.ndarray, budget: float) -> float:
    """β at which the weights of these rewards, which differ, are `budget` nats away from equal ones."""
    low, high = 0.0, STEEPEST / float(np.ptp(rewards))
    if divergence(rewards, high) <= budget:
        return high
    for _ in range(HALVINGS):
        beta = (low + high) / 2
        low, high = (low, beta) if divergence(rewards, beta) > budget else (beta, high)
    return low


def divergence(rewards: np.ndarray, beta: float) -> float:
    """KL(exp(β r) / Σ exp(β r) ‖ 1 / n), in nats; rises with β, from 0 to log(n / how many are the best)."""
    shares = _shares(rewards, beta)
    some = shares[shares > 0]
    return float(some @ np.log(some)) + math.log(len(rewards))


def _shares(rewards: np.ndarray, beta: float) -> np.ndarray:
    """exp(β r) / Σ exp(β r)."""
    powers = np.exp(beta * (rewards - rewards.max()))
    return powers / powers.sum()
