"""What a learner step comes to: its figures for the journal, and the learner's account of each transition. Pure.

Invariant: a report is a record of numbers; who reads one needs no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from learner.algorithm.policy_batch import PolicyBatch
    from learner.algorithm.policy_sums import PolicySums


@dataclass(frozen=True)
class Update:
    """Figures of an optimiser step on transitions; means over the tokens of its rows unless said otherwise."""

    loss: float
    """Of the step."""
    value_loss: float
    """Of the step."""
    grad_norm: float
    """Before clipping."""
    ratio_mean: float
    clip_fraction: float
    importance_max: float
    rejected_fraction: float
    """Tokens that `rl.mask` leaves without policy gradient."""
    entropy: float
    kl: float
    logprob_gap_mean: float
    """|difference| between engine and learner on the same tokens under the same weights, in nats."""
    logprob_gap_max: float
    logprob_gap_on_current: bool
    """Whether it is of tokens sampled under the very weights that are trained; where there are none, it is of all."""


@dataclass(frozen=True)
class TokenGap:
    """A token on whose log-probability engine and learner disagree."""

    transition_id: str
    position: int
    """In the response."""
    token: int
    engine: float
    """The log-probability when it was sampled."""
    learner: float
    gap: float


@dataclass(frozen=True)
class StepReport:
    """One learner step."""

    update: Update | None
    """None where nothing had a gradient, so that no step was taken."""
    equal_groups: int
    """Groups in which no reward varies."""
    masked: int
    """Infrastructure failures, and what `audit.mask` and `reward.truncated` leave out as well."""
    learning_rate: float
    train_tokens: int
    train_seconds: float
    train_tokens_per_s: float
    """Of what was computed: prompts once, in every pass."""
    advantages: dict[str, float]
    """By transition id, where V(s) is learned less that; none for masked ones."""
    ratios: dict[str, float]
    """By transition id, of those that were computed: mean ratio over the response's tokens, in the last pass."""
    losses: dict[str, float]
    """By transition id, of those that were computed: its part of the loss, in the last pass."""
    worst_tokens: tuple[TokenGap, ...]
    """Those of the largest log-prob gap, the worst first."""
    entropy_weight: float = 0.0
    """Of the entropy in the objective."""

    def figures(self) -> dict[str, Any]:
        """What the journal keeps, by name; null for those of an update that was not made."""
        update: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(Update))
        if self.update:
            update = dataclasses.asdict(self.update)
        kept = (
            "equal_groups", "masked", "learning_rate", "entropy_weight", "train_tokens", "train_seconds",
            "train_tokens_per_s",
        )  # fmt: skip
        return update | {name: getattr(self, name) for name in kept}


def build(
    batch: PolicyBatch,
    passes: Sequence[PolicySums],
    rate: float,
    seconds: float,
    first: PolicySums | None = None,
    entropy: float = 0.0,
) -> StepReport:
    """The report of a batch's step.

    passes: over all its rows; none where it has no rows. Figures are of the last, but V(s), which is of the first, and
    the log-prob gap, which is of the first optimiser step: later ones have other weights than those that sampled.
    first: that step, where a pass has several; entropy: the weight of its bonus.
    """
    advantages = dict(batch.advantages)
    responses: list[tuple[str, float, float]] = []
    if passes:
        for number, value in dict(passes[0].values).items():  # a group in several rows has its V(s) in each
            for name in batch.groups[number]:
                advantages[name] -= value
        starts = np.cumsum([0, *(len(member.response_ids) for member in batch.members[:-1])]).tolist()
        names = {start: member.id for start, member in zip(starts, batch.members, strict=True)}
        responses = [(names[start], ratio, loss) for start, ratio, loss in passes[-1].responses]
    return StepReport(
        update=_update(first or passes[0], passes[-1]) if passes else None,
        equal_groups=batch.equal_groups,
        masked=batch.masked,
        learning_rate=rate,
        train_tokens=batch.tokens,
        train_seconds=seconds,
        train_tokens_per_s=sum(len(policy_row.row.input_ids) for policy_row in batch.rows) * len(passes) / seconds,
        advantages=advantages,
        ratios={name: ratio for name, ratio, _ in responses},
        losses={name: loss for name, _, loss in responses},
        worst_tokens=_worst_tokens(batch, (first or passes[0]).worst) if passes else (),
        entropy_weight=entropy,
    )


def _update(first: PolicySums, last: PolicySums) -> Update:
    on_current = first.current > 0
    return Update(
        loss=last.loss,
        value_loss=last.value_loss,
        grad_norm=last.grad_norm,
        ratio_mean=last.ratio / last.tokens,
        clip_fraction=last.clipped / last.tokens,
        importance_max=last.importance_max,
        rejected_fraction=last.rejected / last.tokens,
        entropy=last.entropy / last.tokens,
        kl=last.kl / last.tokens,
        logprob_gap_mean=first.gap_current / first.current if on_current else first.gap / first.tokens,
        logprob_gap_max=first.gap_current_max if on_current else first.gap_max,
        logprob_gap_on_current=on_current,
    )


def _worst_tokens(batch: PolicyBatch, worst: Sequence[tuple[float, int, float]]) -> tuple[TokenGap, ...]:
    """worst: as `PolicySums` has them."""
    ends = np.cumsum([len(member.response_ids) for member in batch.members])
    gaps = []
    for gap, index, logprob in worst:
        number = int(np.searchsorted(ends, index, side="right"))
        member = batch.members[number]
        position = index - int(ends[number] - len(member.response_ids))
        token, sampled = int(member.response_ids[position]), float(member.behaviour_logprobs[position])
        gaps.append(TokenGap(member.id, position, token, sampled, logprob, gap))
    return tuple(gaps)
