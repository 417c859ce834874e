"""Turns groups of transitions into the rows of one policy step.

Invariants: infrastructure failures and groups whose rewards are all equal appear in no row; behaviour log-probs and
advantages line up with the row's loss positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from envs.records import Outcome, Transition
from learner import batching, losses
from learner.batching import Group, Row


@dataclass(frozen=True)
class PolicyRow:
    """A row with what its N loss positions are trained on."""

    row: Row
    behaviour: np.ndarray
    """float32 [N]: log-probs under the policy that sampled."""
    advantages: np.ndarray
    """float32 [N]."""
    current: np.ndarray
    """bool [N]: sampled under the very weights that are trained."""


@dataclass(frozen=True)
class PolicyBatch:
    """What one policy step trains on."""

    rows: list[PolicyRow]
    tokens: int
    """Response tokens of all but the infrastructure failures: the divisor of the token mean. Those of equal groups
    count, since their gradient is zero, not absent."""
    advantages: dict[str, float]
    """By transition id; none for infrastructure failures."""
    equal_groups: int
    masked: int


def build(groups: Sequence[Sequence[Transition]], version: int, row_tokens: int) -> PolicyBatch:
    """The batch of `groups` (transitions with the same prompt), at weight version `version`.

    Raises BatchingError where a transition does not fit a row of `row_tokens`.
    """
    members = [transition for group in groups for transition in group]
    valid = [transition.outcome is not Outcome.INFRA_FAILURE for transition in members]
    result = losses.group_advantages(
        torch.tensor([transition.reward for transition in members]),
        torch.tensor([index for index, group in enumerate(groups) for _ in group]),
        torch.tensor(valid),
    )
    values = dict(zip((t.id for t in members), result.values.tolist(), strict=True))
    trained = {t.id for t, informative in zip(members, result.informative.tolist(), strict=True) if informative}
    kept = [chosen for group in groups if (chosen := [t for t in group if t.id in trained])]
    return PolicyBatch(
        rows=_rows(kept, values, version, row_tokens),
        tokens=sum(len(t.response_ids) for t, ok in zip(members, valid, strict=True) if ok),
        advantages={t.id: values[t.id] for t, ok in zip(members, valid, strict=True) if ok},
        equal_groups=result.equal_groups,
        masked=valid.count(False),
    )


def _rows(
    groups: Sequence[Sequence[Transition]], advantages: dict[str, float], version: int, row_tokens: int
) -> list[PolicyRow]:
    if not groups:
        return []
    members = [transition for group in groups for transition in group]
    behaviour = np.concatenate([t.behaviour_logprobs for t in members]).astype(np.float32)
    advantage = np.repeat(
        np.array([advantages[t.id] for t in members], np.float32), [len(t.response_ids) for t in members]
    )
    current = np.concatenate([_sampled_under(t, version) for t in members])
    rows = batching.pack([Group(g[0].prompt_ids, tuple(t.response_ids for t in g)) for g in groups], row_tokens)
    return [
        PolicyRow(row, behaviour[row.token_index], advantage[row.token_index], current[row.token_index]) for row in rows
    ]


def _sampled_under(transition: Transition, version: int) -> np.ndarray:
    """bool [R]: response tokens sampled under weight version `version`."""
    current = np.zeros(len(transition.response_ids), bool)
    for sampled, start, end in transition.version_spans:
        current[start:end] = sampled == version
    return current
