"""What each response of a batch is worth to the policy gradient: advantages and weights, as pure functions.

Invariants: masked members (`Transition.masked`) enter no mean, deviation, weight or count; weights are of a whole
mini-batch, so that losses and gradients of any split of it add up to those of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from learner.algorithm.algorithms import advantages_of, named, varied
from learner.algorithm.best_of import Best
from learner.algorithm.entropic import Entropic


@dataclass(frozen=True)
class Advantages:
    """Advantages of B responses in G groups."""

    values: np.ndarray
    """float64 [B]; zero for members that contribute nothing. Where V(s) is learned, the learner takes it off."""
    informative: np.ndarray
    """bool [B]: members whose reward contributes to the gradient."""
    equal_groups: int
    """Groups in which the rewards of all unmasked members are equal (or none is unmasked)."""


def advantages(
    algorithm: str,
    rewards: Sequence[float],
    groups: Sequence[int],
    valid: Sequence[bool],
    best: Best | Entropic | None = None,
    samples: Sequence[str] = (),
) -> Advantages:
    """Advantages of responses by the algorithm of that name or import path (learner.algorithm.algorithms).

    rewards: [B], whatever value where masked; groups: [B], group of each response, 0 … G−1; valid: [B], False for
    infrastructure failures; best: what is maximised, if not the mean, of samples, whose names are given where several
    responses, as those of an episode, are one and have its reward.
    """
    reward, group, mask = np.asarray(rewards, np.float64), np.asarray(groups), np.asarray(valid, bool)
    values, informative, equal_groups = np.zeros_like(reward), np.zeros_like(mask), 0
    learns_values = named(algorithm).value_head
    for number in range(int(group.max()) + 1):
        members = np.flatnonzero((group == number) & mask)
        if not len(members) or not varied(reward[members]):
            equal_groups += 1
        if len(members):
            names = np.asarray(samples)[members] if best and samples else members
            _, first, sample = np.unique(names, return_index=True, return_inverse=True)
            values[members] = advantages_of(algorithm, reward[members[first]], best)[sample]
            informative[members] = learns_values or values[members].any()
    return Advantages(values, informative, equal_groups)


def token_weights(aggregation: str, lengths: Sequence[int], valid: Sequence[bool], longest: int) -> np.ndarray:
    """Weight of each token of a response in the batch's loss, float64 [B]; zero where masked.

    lengths: [B], tokens of each response; longest: most that a response can have. Weights of all tokens add up to
    one with `token`: every token of the batch weighs the same, so that long responses weigh more (DAPO, arXiv
    2503.14476), and with `sequence`: every response weighs the same (GRPO as published). `sequence_sum`: the tokens of
    a response are added up, and their mean over responses is taken, as in the policy gradient itself; `constant`: that
    over `longest` (Dr. GRPO, arXiv 2503.20783), so that a token weighs the same in every batch.
    """
    length, mask = np.asarray(lengths, np.float64), np.asarray(valid, bool)
    responses = max(int(mask.sum()), 1)
    share = {
        "token": np.full_like(length, 1 / max(length[mask].sum(), 1)),
        "sequence": 1 / (responses * np.maximum(length, 1)),
        "sequence_sum": np.full_like(length, 1 / responses),
        "constant": np.full_like(length, 1 / (responses * longest)),
    }[aggregation]
    return np.where(mask, share, 0.0)
