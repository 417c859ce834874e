"""What each response of a batch is worth to the policy gradient: advantages, emphasis and weights, as pure functions.

Invariants: masked members (infrastructure failures) enter no mean, deviation, weight or count; the weights of all
tokens of a batch add up to one, so that losses and gradients of any split of the batch add up to those of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EPSILON = 1e-6
"""Keeps the division finite where the rewards of a group hardly differ."""
ALGORITHMS = ("grpo", "rloo", "ppo")
AGGREGATIONS = ("token", "sequence")


@dataclass(frozen=True)
class Advantages:
    """Advantages of B responses in G groups."""

    values: np.ndarray
    """float64 [B]; zero for members that contribute nothing. For ppo the reward, from which the learner takes V(s)."""
    informative: np.ndarray
    """bool [B]: members whose reward contributes to the gradient."""
    equal_groups: int
    """Groups in which the rewards of all unmasked members are equal (or none is unmasked)."""


def advantages(algorithm: str, rewards: Sequence[float], groups: Sequence[int], valid: Sequence[bool]) -> Advantages:
    """Advantages of responses by one of `ALGORITHMS`.

    rewards: [B], whatever value where masked; groups: [B], group of each response, 0 … G−1; valid: [B], False for
    infrastructure failures. With n valid members in a group:

    * grpo: (reward − mean) / (population standard deviation + ε); DeepSeekMath, arXiv 2402.03300.
    * rloo: reward − mean of the other n−1, so (reward − mean) · n/(n−1); arXiv 2402.14740.
    * ppo: the reward itself; the baseline V(s) is the learner's. Equal rewards teach too: all better or worse than V.
    """
    group, mask = np.asarray(groups), np.asarray(valid, bool)
    reward = np.where(mask, np.asarray(rewards, np.float64), 0.0)
    count = int(group.max()) + 1

    def per_group(values: np.ndarray) -> np.ndarray:
        return np.bincount(group, values * mask, count)

    members = np.maximum(per_group(np.ones_like(reward)), 1)
    centred = reward - (per_group(reward) / members)[group]
    deviation = np.sqrt(per_group(centred**2) / members)
    varied = deviation > EPSILON
    if algorithm == "ppo":
        return Advantages(np.where(mask, reward, 0.0), mask, int((~varied).sum()))
    informative = mask & varied[group]
    scale = members / np.maximum(members - 1, 1) if algorithm == "rloo" else 1 / (deviation + EPSILON)
    return Advantages(np.where(informative, centred * scale[group], 0.0), informative, int((~varied).sum()))


def duration_emphasis(seconds: Sequence[float], valid: Sequence[bool]) -> np.ndarray:
    """Δt of each action over its mean in the batch, float64 [B]; 1 where masked, or where no action took time.

    Actors that go on to the next action as soon as one ends deliver fast actions more often than slow ones; weighting
    by Δt undoes it. arXiv 2509.01684: ∇J = E[Σ Δt_k ∇log π(a_k|s_k) Â_k].
    """
    taken, mask = np.asarray(seconds, np.float64), np.asarray(valid, bool)
    mean = taken[mask].mean() if mask.any() else 0.0
    return np.where(mask, taken / mean, 1.0) if mean > 0 else np.ones_like(taken)


def token_weights(aggregation: str, lengths: Sequence[int], valid: Sequence[bool]) -> np.ndarray:
    """Weight of each token of a response in the batch's loss, float64 [B]; zero where masked.

    lengths: [B], tokens of each response. `token`: every token of the batch weighs the same, so that long responses
    weigh more (DAPO, arXiv 2503.14476); `sequence`: every response weighs the same (GRPO as published).
    """
    length, mask = np.asarray(lengths, np.float64), np.asarray(valid, bool)
    share = np.ones_like(length) if aggregation == "token" else 1 / np.maximum(length, 1)
    total = (share * length)[mask].sum()
    return np.where(mask, share / max(total, 1), 0.0)
