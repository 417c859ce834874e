"""The figures of a policy step, as ranks send them to the driver.

Invariant: figures of rows, of ranks and of any split of a batch combine to those of the whole.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WORST = 8
"""Tokens of the largest log-prob gap that are reported."""


@dataclass(frozen=True)
class PolicySums:
    """What is added to the metrics of a policy step; sums over tokens unless said otherwise."""

    loss: float = 0.0
    value_loss: float = 0.0
    ratio: float = 0.0
    clipped: float = 0.0
    entropy: float = 0.0
    kl: float = 0.0
    importance_max: float = 0.0
    rejected: float = 0.0
    tokens: int = 0
    """All of them."""
    gap: float = 0.0
    gap_max: float = 0.0
    gap_current: float = 0.0
    gap_current_max: float = 0.0
    current: int = 0
    """Tokens sampled under the current weights."""
    grad_norm: float = 0.0
    """Norm over all ranks, before clipping."""
    worst: tuple[tuple[float, int, float], ...] = ()
    """(gap, `Row.token_index`, the learner's log-prob), largest gap first; of current tokens where there are any."""
    values: tuple[tuple[int, float], ...] = ()
    """(`Row.groups`, V(s)) of each prompt, where there is a value head."""
    responses: tuple[tuple[int, float, float], ...] = ()
    """(`Row.token_index` of its first token, mean ratio, part of the loss) of each response."""


_MAXIMA = frozenset({"importance_max", "gap_max", "gap_current_max", "grad_norm"})


def combine(parts: Sequence[PolicySums]) -> PolicySums:
    """Sums added, lists joined, maxima taken; the gradient norm is the same on every rank."""

    def together(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        if name in _MAXIMA:
            return max(values)
        if name == "worst":
            of_current = [part.worst for part in parts if part.current]
            return tuple(sorted(itertools.chain(*(of_current or values)), reverse=True)[:WORST])
        return sum(values, start=()) if name in ("values", "responses") else sum(values)

    return PolicySums(**{field.name: together(field.name) for field in dataclasses.fields(PolicySums)})
