"""What is earned from a script on: V(s), from what the groups that were tried from it earned.

With r the reward of an action, s' the state that it leads to and γ = `rl.discount`, V(s) = E[r + γ V(s')] over the
policy's actions (Bellman's equation; Sutton and Barto, 2nd edition, 3.14). The mean of a group is an unbiased sample of
the right side given V, and V(s) moves a share of the way there: TD(0) (6.2 there). A script that was not tried has the
mean of those of its task that were, weighted by how near their scores are: such averagers keep the fixed point
(Gordon 1995, Stable function approximation in dynamic programming).

Invariants: without experience of a task every state of it is worth 0; of a task no more than `KNOWN` scripts are
remembered, those that were tried last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from envs.records import Reached

KNOWN = 200
NEAR = 0.05
"""Share of a task's range at which the score of another script counts 1/e."""
MOVES = 0.5
"""Share of the way from the old estimate to what a group says."""


@dataclass(frozen=True)
class Known:
    """A script that was tried."""

    snapshot: str
    score: float | None
    """None: it fails."""
    value: float


class Values:
    """V of the scripts of some tasks."""

    def __init__(self, known: dict[str, list[Known]], spans: Mapping[str, float]):
        """known: by task, what was tried longest ago first; it is changed in place. spans: by task, the range of its
        scores, above 0; 1 where it is not named."""
        self._known, self._spans = known, spans

    def of(self, task_id: str, reached: Reached | None) -> float:
        """V of where an action led; 0 where the episode is over."""
        known = self._known.get(task_id)
        if reached is None or not known:
            return 0.0
        for one in known:
            if one.snapshot == reached.snapshot:
                return one.value
        alike = [one for one in known if (one.score is None) == (reached.score is None)] or known
        weights = [self._nearness(task_id, one.score, reached.score) for one in alike]
        return sum(weight * one.value for weight, one in zip(weights, alike, strict=True)) / sum(weights)

    def _nearness(self, task_id: str, one: float | None, other: float | None) -> float:
        """In (0, 1]."""
        if one is None or other is None:
            return 1.0
        apart = abs(one - other) / (NEAR * self._spans.get(task_id, 1.0))
        return max(math.exp(-apart), 1e-300)  # however far, somebody is the nearest

    def learn(self, task_id: str, tried: Reached, earned: float) -> None:
        """earned: mean of r + γ V(s') over the group that was tried from a script."""
        known = self._known.setdefault(task_id, [])
        before = next((one for one in known if one.snapshot == tried.snapshot), None)
        value = earned if before is None else before.value + MOVES * (earned - before.value)
        kept: Sequence[Known] = [one for one in known if one is not before]
        known[:] = [*kept, Known(tried.snapshot, tried.score, value)][-KNOWN:]
