"""The optimiser steps of all ranks together: what each gets of a batch, at which learning rate, and what came of it.

Invariant: losses and gradients of a batch do not depend on how it is split over rows or ranks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.records import Transition
from learner.algorithm import batching, policy_batch, schedules, step_report
from learner.algorithm.batching import Example, Row
from learner.algorithm.policy_sums import combine
from learner.algorithm.step_report import StepReport
from learner.config.schema import Config
from learner.ranks.group import LearnerError, RankGroup

SHARING = 8
"""Most examples of one prompt that fine-tuning keeps together, which share its computation; of a small batch half, so
that it is mixed."""


@dataclass
class Position:
    """How far training has come: what a checkpoint holds beside the weights."""

    rl_steps: int = 0
    sft_steps: int = 0
    """Of a fine-tuning that has not ended."""
    entropy_added: float = 0.0
    """To `rl.entropy`, by `rl.entropy_target`."""

    def trained(self, rl: Any, report: StepReport) -> None:
        """Another RL step was made."""
        self.rl_steps += 1
        if rl.entropy_target and report.update:
            step = rl.entropy_step if report.update.entropy < rl.entropy_target else -rl.entropy_step
            self.entropy_added = max(-rl.entropy, self.entropy_added + step)


@dataclass(frozen=True)
class FinetuneStep:
    """One optimiser step of fine-tuning, as `finetune.jsonl` has it."""

    step: int
    total: int
    loss: float
    """Nats per response token."""
    grad_norm: float
    learning_rate: float
    tokens_per_s: float


def policy_step(
    ranks: RankGroup, cfg: Config, groups: Sequence[Sequence[Transition]], version: int, position: Position
) -> StepReport:
    """The learner step after `position` on groups of transitions: `rl.epochs` optimiser steps on each mini-batch, or
    none where nothing has a gradient; version: the weight version that is trained. Raises LearnerError,
    BatchingError."""
    began = time.monotonic()
    rl, number = cfg.rl, position.rl_steps
    batch = policy_batch.build(groups, version, cfg.learner.row_tokens, rl, len(ranks), number, cfg.model.response)
    rate, entropy = schedules.warmup_constant(number, rl.learning_rate), rl.entropy + position.entropy_added
    shards = [_dealt(ranks, rows, [policy_row.row for policy_row in rows]) for rows in batch.parts]
    if len(shards) > 1 and (rl.correction != "none" or rl.mask != "none"):
        for part, own in enumerate(shards):  # as the weights are now, of all: after the first they have moved
            ranks.each("hold_proximal", own, part)
    made = [
        [combine(ranks.each("policy_step", own, rate, epoch == 0, part, entropy)) for part, own in enumerate(shards)]
        for epoch in range(rl.epochs)
    ]
    passes = [combine(steps) for steps in made if steps]
    first = made[0][0] if passes else None
    return step_report.build(batch, passes, rate, time.monotonic() - began, first, entropy)


def finetune_steps(
    ranks: RankGroup, cfg: Config, examples: Sequence[Example], position: Position
) -> Iterator[FinetuneStep]:
    """`sft.epochs` passes over the examples in a seeded order; yields after each optimiser step.

    position: the step that comes next is `sft_steps`; it moves on with each, and may be set back in between, with the
    weights. Raises LearnerError, BatchingError.
    """
    sft = cfg.sft
    if not examples:
        raise LearnerError("nothing to fine-tune on: the experts left no action worth imitating")
    rng = np.random.default_rng(cfg.run.seed)
    together = max(1, min(SHARING, sft.batch // 2))
    order = [example for _ in range(sft.epochs) for example in batching.shuffled(examples, together, rng)]
    batches = [order[start : start + sft.batch] for start in range(0, len(order), sft.batch)]
    while (step := position.sft_steps) < len(batches):
        began = time.monotonic()
        rate = schedules.warmup_cosine(step, len(batches), sft.learning_rate)
        rows, tokens = _packed(batches[step], cfg)
        results = ranks.each("finetune_step", _dealt(ranks, rows, rows), tokens, rate)
        position.sft_steps = step + 1
        yield FinetuneStep(
            step=step + 1,
            total=len(batches),
            loss=sum(loss for loss, _ in results),
            grad_norm=results[0][1],
            learning_rate=rate,
            tokens_per_s=sum(len(row.input_ids) for row in rows) / (time.monotonic() - began),
        )


def mean_loss(ranks: RankGroup, cfg: Config, examples: Sequence[Example]) -> float:
    """Mean cross-entropy of the response tokens, in nats. Raises as `finetune_steps`."""
    rows, tokens = _packed(examples, cfg)
    return sum(ranks.each("loss", _dealt(ranks, rows, rows), tokens))


def _packed(examples: Sequence[Example], cfg: Config) -> tuple[list[Row], int]:
    """Rows of the examples, and how many response tokens are in them."""
    rows = batching.pack_for(batching.by_prompt(examples), cfg.learner.row_tokens, cfg.learner.ranks)
    return rows, sum(len(example.response_ids) for example in examples)


def _dealt(ranks: RankGroup, items: Sequence[Any], rows: Sequence[Row]) -> list[list[Any]]:
    """The items of each rank, dealt out by the lengths of their rows; None where a rank has fewer than another."""
    shards = batching.shard(rows, len(ranks))
    return [[None if index is None else items[index] for index in shard] for shard in shards]
