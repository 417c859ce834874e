"""Turns groups of transitions into the rows of one policy step.

Invariants: masked transitions (`Transition.masked`: infrastructure failures, and what `audit.mask` and
`reward.truncated` leave out), and groups without a gradient, appear in no row; every array of a row lines up with its
loss positions.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.records import Transition
from learner.algorithm import batching
from learner.algorithm.advantages import advantages, token_weights
from learner.algorithm.algorithms import aim
from learner.algorithm.batching import Group, Row


@dataclass(frozen=True)
class PolicyRow:
    """A row with what its N loss positions are trained on; float32 [N] unless said otherwise."""

    row: Row
    behaviour: np.ndarray
    """Log-probs under the policy that sampled."""
    advantages: np.ndarray
    """Where V(s) is learned, the rank takes it off."""
    weights: np.ndarray
    """Of each token in the loss."""
    current: np.ndarray
    """bool [N]: sampled under the very weights that are trained."""


@dataclass(frozen=True)
class PolicyBatch:
    """What one policy step trains on."""

    parts: list[list[PolicyRow]]
    """The rows of each mini-batch, of which each is an optimiser step; none without rows."""
    members: list[Transition]
    """Those in the rows, in the order of `Row.token_index`."""
    groups: list[list[str]]
    """Ids of the transitions of each group in the rows (`Row.groups` counts these): those of one prompt."""
    tokens: int
    """Response tokens of all that are not masked: those whose weights add up to one. Those in no row count,
    since their gradient is zero, not absent."""
    advantages: dict[str, float]
    """By transition id; none for masked ones."""
    equal_groups: int
    masked: int

    @property
    def rows(self) -> list[PolicyRow]:
        return [row for part in self.parts for row in part]


def build(
    groups: Sequence[Sequence[Transition]],
    version: int,
    row_tokens: int,
    rl: Any,
    ranks: int = 1,
    step: int = 0,
    longest: int = 1,
) -> PolicyBatch:
    """The batch of `groups` (what rewards are compared within), at weight version `version`.

    rl: that section of the configuration; ranks: among which the rows will be dealt out; step: learner steps done, for
    what is annealed; longest: tokens that a response can have, for `rl.aggregation=constant`. `rl.minibatches`
    parts have nearly as many groups each, in order, and weights of their own. Groups of equal rewards, which teach only
    where V(s) is learned, are in rows all the same where the divergence from the reference or the entropy is in the
    objective: these have a gradient on every token.
    Raises BatchingError where a transition does not fit a row of `row_tokens`.
    """
    members = [transition for group in groups for transition in group]
    number = [index for index, group in enumerate(groups) for _ in group]
    valid = [not transition.masked for transition in members]
    lengths = [len(t.response_ids) for t in members]
    best = aim(rl, step)
    samples = [t.id.rpartition("/")[0] for t in members] if rl.episode_steps > 1 else ()
    worth = advantages(rl.algorithm, [t.worth for t in members], number, valid, best, samples)
    part = np.repeat(_parts(len(groups), rl.minibatches), [len(group) for group in groups])
    counted = worth.informative if rl.refill else np.array(valid)
    weights = np.zeros(len(members))
    for own in (part == which for which in np.unique(part)):
        weights[own] = token_weights(rl.aggregation, np.array(lengths)[own], counted[own], longest)
    by_prompt: dict[tuple[int, bytes], list[int]] = {}
    has_gradient = counted if rl.kl or rl.entropy or rl.entropy_target else worth.informative
    for index in np.flatnonzero(has_gradient).tolist():  # a group of whole episodes has many prompts
        by_prompt.setdefault((number[index], members[index].prompt_ids.tobytes()), []).append(index)
    kept = [index for same in by_prompt.values() for index in same]
    chosen = [members[index] for index in kept]

    def per_token(values: np.ndarray) -> np.ndarray:
        return np.repeat(values.astype(np.float32)[kept], np.asarray(lengths)[kept])

    def end_to_end(arrays: Iterable[np.ndarray], dtype: type) -> np.ndarray:
        return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype)

    behaviour = end_to_end((t.behaviour_logprobs for t in chosen), np.float32)
    current = end_to_end((_sampled_under(t, version) for t in chosen), bool)
    advantage, weight = per_token(worth.values), per_token(weights)
    prompts = [[members[index] for index in same] for same in by_prompt.values()]
    packed = [Group(same[0].prompt_ids, tuple(t.response_ids for t in same)) for same in prompts]
    return PolicyBatch(
        parts=[
            [
                PolicyRow(
                    row=row,
                    behaviour=behaviour[row.token_index],
                    advantages=advantage[row.token_index],
                    weights=weight[row.token_index],
                    current=current[row.token_index],
                )
                for row in rows
            ]
            for rows in _packed(packed, [part[same[0]] for same in by_prompt.values()], row_tokens, ranks)
        ],
        members=chosen,
        groups=[[t.id for t in same] for same in prompts],
        tokens=sum(length for length, ok in zip(lengths, valid, strict=True) if ok),
        advantages={t.id: value for t, value, ok in zip(members, worth.values.tolist(), valid, strict=True) if ok},
        equal_groups=worth.equal_groups,
        masked=valid.count(False),
    )


def _parts(groups: int, minibatches: int) -> np.ndarray:
    """int [groups]: the mini-batch of each, in order and of nearly equal size."""
    parts = min(minibatches, groups)
    return np.arange(groups) * parts // groups


def _packed(groups: Sequence[Group], parts: Sequence[int], row_tokens: int, ranks: int) -> list[list[Row]]:
    """The rows of each part, with the numbers of groups and tokens in the whole; parts: of each group, ascending."""
    packed, before, tokens = [], 0, 0
    for _, pairs in itertools.groupby(zip(parts, groups, strict=True), key=lambda pair: pair[0]):
        own = [group for _, group in pairs]
        packed.append(
            [
                dataclasses.replace(
                    row, token_index=row.token_index + tokens, groups=tuple(before + number for number in row.groups)
                )
                for row in batching.pack_for(own, row_tokens, ranks)
            ]
        )
        before, tokens = before + len(own), tokens + sum(len(one) for group in own for one in group.responses)
    return packed


def _sampled_under(transition: Transition, version: int) -> np.ndarray:
    """bool [R]: response tokens sampled under weight version `version`."""
    current = np.zeros(len(transition.response_ids), bool)
    for sampled, start, end in transition.version_spans:
        current[start:end] = sampled == version
    return current
