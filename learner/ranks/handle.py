"""The learner as the driver sees it: a handle over one DeepSpeed process per rank.

Invariants: a batch's losses and gradients do not depend on how it is split over rows or ranks; a step on which nothing
has a gradient changes nothing; every wait for a rank ends, at the latest after `learner.deadline`, with an error that
names it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from ray.exceptions import RayError, RayTaskError

from actors.pool import Receiver
from actors.runtime.placement import on_node
from actors.runtime.remote import KEPT_MEMORY, place
from envs.errors import UserError
from envs.records import Transition
from learner.algorithm import batching, policy_batch, schedules
from learner.algorithm.batching import Example
from learner.algorithm.policy_batch import PolicyBatch
from learner.algorithm.policy_step import combine
from learner.config.schema import Config
from learner.ranks.rank import LearnerRank, Published

RANK_ENVIRONMENT = {
    **KEPT_MEMORY,  # a quarter of a step is faulting in pages otherwise
    # A row hardly ever has the length of another, and for each length a CPU makes programs of 0.6 MB and more for its
    # matrix products: kept by the thousand, as torch (ideep) and oneDNN do, they are gigabytes, and no faster.
    "LRU_CACHE_CAPACITY": "64",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    # Threads that spin at barriers take the cores that engine and experiments need.
    "OMP_WAIT_POLICY": "passive",
}
Result = TypeVar("Result")
DEATH_SECONDS = 10.0
"""A rank's death may be known that much later than the failure of the others that it causes."""
SHARING = 8
"""Examples of one prompt that fine-tuning keeps together: they share its computation, and batches stay mixed."""
STEP_FIGURES = (
    "loss", "value_loss", "grad_norm", "ratio_mean", "clip_fraction", "importance_max", "entropy", "kl",
    "logprob_gap_mean", "logprob_gap_max", "logprob_gap_on_current",
)  # fmt: skip
"""Metrics of an optimiser step on transitions; `logprob_gap_*` in nats per token."""


class LearnerError(UserError):
    """The learner cannot go on; the message names the rank and what it was doing."""


class RankDied(LearnerError):
    """The process of a rank has ended: all ranks can be started again."""


class Learner:
    """Trains the policy. Calls block; not thread-safe.

    When a rank dies, all ranks are started again: they load the last checkpoint and repeat the batches since, so that
    the result is that of an undisturbed run.
    """

    def __init__(self, cfg: Config, model_dir: Path, say: Callable[[str], None] = print) -> None:
        """Start `learner.ranks` processes and load the model of `model_dir` in each; Ray must be initialised.

        say: tells the user of a restart.
        """
        self.cfg, self._model_dir, self._say = cfg, Path(model_dir), say
        self._place = place(cfg.run.mode)
        self.rl_steps = self.sft_steps = self._restarts = 0
        self._ranks: list[Any] = []
        self._saved: Path | None = None
        self._finetuned = False
        self._reference: Path | None = None
        self._since: list[tuple[Sequence[Sequence[Transition]], int]] = []
        self._start()

    def _start(self) -> None:
        learner = self.cfg.learner
        on_cpu = {"DS_ACCELERATOR": "cpu"} if learner.gpus == 0 else {}
        options = {
            "num_cpus": learner.cpus, "num_gpus": learner.gpus, **on_node(learner.node),
            "runtime_env": {"env_vars": RANK_ENVIRONMENT | on_cpu},
        }  # fmt: skip
        self._ranks = [
            self._place.spawn(LearnerRank, options, self.cfg, self._model_dir, rank) for rank in range(learner.ranks)
        ]
        try:
            [(host, port)] = self._wait("start", [self._ranks[0].address.remote()])
            self._everyone("join", host, port, learner.deadline)
        except BaseException:
            self.close()
            raise

    def restart_from(self, folder: Path) -> None:
        """Where `save` put the state that a restart goes back to, if not where it was told to."""
        self._saved = folder

    def _surviving(self, call: Callable[[], Result]) -> Result:
        """The call's result; where a rank dies in it, all start again and it is made again."""
        while True:
            try:
                return call()
            except RankDied as error:
                self._restart(error)

    def _restart(self, reason: LearnerError) -> None:
        """Bring all ranks to where they were before the call that failed."""
        self._restarts += 1
        if self._restarts > self.cfg.learner.restarts or (self._finetuned and not self._saved):
            raise reason
        self._say(f"{reason}; the learner starts again from {self._saved or self._model_dir}")
        self.close()
        self._start()
        steps, batches = self.rl_steps, self._since
        self.rl_steps = self.sft_steps = 0
        if self._saved:
            self.load(self._saved)
        if self._reference:
            self.hold_reference(self._reference)
        for groups, version in batches:
            self._train(groups, version)
        self._since, self.rl_steps = batches, steps

    def finetune(self, examples: Sequence[Example]) -> Iterator[dict[str, float]]:
        """`sft.epochs` passes over the examples in a seeded order; yields the metrics of each optimiser step.

        It goes on after step `sft_steps`, where `load` brought it, and again where a rank dies. The optimiser's
        moments are forgotten at the end. Raises LearnerError, BatchingError.
        """
        try:
            yield from self._finetune(examples)
        except RankDied as error:
            self._restart(error)
            yield from self.finetune(examples)

    def _finetune(self, examples: Sequence[Example]) -> Iterator[dict[str, float]]:
        sft = self.cfg.sft
        if not examples:
            raise LearnerError("nothing to fine-tune on: the experts left no action worth imitating")
        rng = np.random.default_rng(self.cfg.run.seed)
        order = [one for _ in range(sft.epochs) for one in batching.shuffled(examples, SHARING, rng)]
        starts = range(0, len(order), sft.batch)
        for step in range(self.sft_steps, len(starts)):
            start = starts[step]
            began = time.monotonic()
            batch = order[start : start + sft.batch]
            tokens = sum(len(example.response_ids) for example in batch)
            rate = schedules.warmup_cosine(step, len(starts), sft.learning_rate)
            rows = batching.pack(batching.by_prompt(batch), self.cfg.learner.row_tokens)
            shards = _take(rows, batching.shard(rows, len(self._ranks)))
            results = self._each("finetune_step", shards, tokens, rate)
            processed = sum(len(row.input_ids) for row in rows)
            self.sft_steps = step + 1
            yield {
                "step": step + 1,
                "total": len(starts),
                "loss": sum(loss for loss, _ in results),
                "grad_norm": results[0][1],
                "learning_rate": rate,
                "tokens_per_s": processed / (time.monotonic() - began),
            }
        self._everyone("reset_optimizer")
        self.sft_steps, self._finetuned = 0, True
        self._saved = None  # a checkpoint on the way no longer holds what was trained

    def loss(self, examples: Sequence[Example]) -> float | None:
        """Mean cross-entropy of the response tokens, in nats; None without examples. Raises as `finetune`."""
        if not examples:
            return None
        tokens = sum(len(example.response_ids) for example in examples)
        rows = batching.pack(batching.by_prompt(examples), self.cfg.learner.row_tokens)
        shards = _take(rows, batching.shard(rows, len(self._ranks)))
        return self._surviving(lambda: sum(self._each("loss", shards, tokens)))

    def train(self, groups: Sequence[Sequence[Transition]], version: int) -> dict[str, Any]:
        """One optimiser step on groups of transitions that share a prompt; returns its metrics.

        version: the weight version being trained; tokens sampled under it have the same weights here, so the
        log-prob gap is measured on them unless there are none (`logprob_gap_on_current` says); `worst_tokens` are
        those of the largest gap. `advantages` maps transition ids to advantages, without those of infrastructure
        failures; `ratios` and `losses` map those that were computed to the mean ratio over their tokens and to their
        part of the loss, in the last pass. Where there is nothing to learn from (for grpo and rloo without `rl.kl` and
        `rl.entropy`: no reward varies within any group) no step is taken, and the figures of one (`STEP_FIGURES`) are
        None. Raises LearnerError, BatchingError.
        """
        figures = self._surviving(lambda: self._train(groups, version))
        self._since.append((groups, version))
        return figures

    def _train(self, groups: Sequence[Sequence[Transition]], version: int) -> dict[str, Any]:
        began = time.monotonic()
        rl = self.cfg.rl
        batch = policy_batch.build(groups, version, self.cfg.learner.row_tokens, rl)
        rate = schedules.warmup_constant(self.rl_steps, rl.learning_rate)
        figures: dict[str, Any] = dict.fromkeys(STEP_FIGURES)
        figures |= {"worst_tokens": [], "values": {}, "ratios": {}, "losses": {}}
        if batch.rows:
            figures = self._policy_step(batch, rate)
        self.rl_steps += 1
        for number, value in figures.pop("values").items():
            for name in batch.groups[number]:
                batch.advantages[name] -= value
        seconds = time.monotonic() - began
        processed = sum(len(policy_row.row.input_ids) for policy_row in batch.rows)
        return figures | {
            "advantages": batch.advantages,
            "equal_groups": batch.equal_groups,
            "masked": batch.masked,
            "learning_rate": rate,
            "train_tokens": batch.tokens,
            "train_seconds": seconds,
            "train_tokens_per_s": processed * rl.epochs / seconds,
        }

    def _policy_step(self, batch: PolicyBatch, rate: float) -> dict[str, Any]:
        """`rl.epochs` optimiser steps on the batch: figures of the last, but the log-prob gap and V(s) of the first."""
        shards = _take(batch.rows, batching.shard([policy_row.row for policy_row in batch.rows], len(self._ranks)))
        passes = [combine(self._each("policy_step", shards, rate, number == 0)) for number in range(self.cfg.rl.epochs)]
        first, last = passes[0], passes[-1]
        computed = sum(len(policy_row.behaviour) for policy_row in batch.rows)
        on_current = first.current > 0
        starts = np.cumsum([0, *(len(member.response_ids) for member in batch.members[:-1])]).tolist()
        names = {start: member.id for start, member in zip(starts, batch.members, strict=True)}
        figures = (
            last.loss,
            last.value_loss,
            last.grad_norm,
            last.ratio / computed,
            last.clipped / computed,
            last.importance_max,
            last.entropy / computed,
            last.kl / computed,
            first.gap_current / first.current if on_current else first.gap / computed,
            first.gap_current_max if on_current else first.gap_max,
            on_current,
        )
        return dict(zip(STEP_FIGURES, figures, strict=True)) | {
            "worst_tokens": _worst_tokens(batch, first.worst),
            "values": dict(first.values),
            "ratios": {names[start]: ratio for start, ratio, _ in last.responses},
            "losses": {names[start]: loss for start, _, loss in last.responses},
        }

    def hold_reference(self, folder: Path) -> None:
        """Take the model of `folder` as the reference of the KL term (`rl.kl`)."""
        self._reference = folder
        self._everyone("hold_reference", Path(folder))

    def export(self, folder: Path) -> None:
        """Write the policy as a Hugging Face folder (seen by all ranks)."""
        self._everyone("export", Path(folder))

    def publish(self, bucket_bytes: int, version: int, full: bool = False) -> Published:
        """The weights in the object store, as buckets of about `bucket_bytes` that `actors.policy.weights` unpacks, or
        where they lie on the card that all share.

        full: in full, for actors that have not got the version before; also every `learner.full_every` versions.
        """
        learner = self.cfg.learner
        on_card = learner.transfer == "ipc" and not full
        full = full or version % learner.full_every == 0
        checked = self._is_checked(version)
        return self._surviving(lambda: self._everyone("publish", bucket_bytes, version, full, checked, on_card)[0])

    def broadcast(self, version: int, receivers: Callable[[], Sequence[Receiver]]) -> Published:
        """The weights in all actors' engines, over NCCL.

        receivers: who lives; asked again where the broadcast fails. An actor that dies in it leaves the ranks waiting
        for it in a collective: after `actors.deadline` they are started again.
        """
        checked, deadline = self._is_checked(version), self.cfg.actors.deadline

        def send() -> Published:
            there = receivers()
            calls = [rank.broadcast.remote(there, version, checked, deadline) for rank in self._ranks]
            if self._place.wait(calls, num_returns=len(calls), timeout=deadline + DEATH_SECONDS)[1]:
                raise RankDied(f"the broadcast of version {version} did not end in {deadline:g} s (actors.deadline)")
            try:
                return self._wait("broadcast", calls)[0]
            except LearnerError as error:  # the group is of no use any more, whoever failed
                raise RankDied(str(error)) from error

        return self._surviving(send)

    def _is_checked(self, version: int) -> bool:
        every = self.cfg.learner.check_every
        return every > 0 and version % every == 0

    def save(self, folder: Path) -> None:
        """Write `folder` (seen by all ranks): state to resume from, and `hf/`, a plain Hugging Face model.

        Raises LearnerError where it cannot be written; training can go on.
        """
        try:
            self._surviving(lambda: self._everyone("save", Path(folder), self._counters()))
        except LearnerError as error:
            if len(self._ranks) > 1:  # the others wait in a collective for the one that could not write
                self._restart(error)
            raise
        self._saved, self._since = folder, []

    def load(self, folder: Path) -> None:
        """Continue from a folder that `save` wrote, with the same number of ranks and ZeRO stage."""
        counters = self._everyone("load", Path(folder))[0]
        self.rl_steps, self.sft_steps = counters["rl_steps"], counters["sft_steps"]
        self._saved, self._since = folder, []

    def _counters(self) -> dict[str, int]:
        return {"rl_steps": self.rl_steps, "sft_steps": self.sft_steps}

    def close(self) -> None:
        """End all ranks."""
        for rank in self._ranks:
            self._place.kill(rank)
        self._ranks = []

    def _everyone(self, method: str, *args: Any) -> list[Any]:
        """Call `method` on all ranks at once with the same arguments; their answers in rank order."""
        return self._wait(method, [getattr(rank, method).remote(*args) for rank in self._ranks])

    def _each(self, method: str, shards: Sequence[Any], *args: Any) -> list[Any]:
        """As `_everyone`, but each rank gets its own shard as first argument."""
        calls = zip(self._ranks, shards, strict=True)
        return self._wait(method, [getattr(rank, method).remote(shard, *args) for rank, shard in calls])

    def _wait(self, method: str, refs: list[Any]) -> list[Any]:
        """All answers, or LearnerError as soon as one rank fails: the others then wait for it in a collective."""
        pending, end = list(refs), time.monotonic() + self.cfg.learner.deadline
        while pending:
            done, pending = self._place.wait(pending, timeout=max(0.0, end - time.monotonic()))
            if not done:
                late = ", ".join(str(refs.index(ref)) for ref in pending)
                raise LearnerError(
                    f"learner rank {late} did not answer {method} in {self.cfg.learner.deadline:g} s (learner.deadline)"
                )
            try:
                self._place.get(done[0])
            except RayTaskError as error:
                if pending:  # a collective fails where another rank has died, whose death is the reason
                    self._raise_death(method, refs, pending)
                raise LearnerError(f"learner rank {refs.index(done[0])} failed in {method}: {error.cause}") from error
            except RayError:
                self._raise_death(method, refs, done)
        return self._place.get(refs)

    def _raise_death(self, method: str, refs: list[Any], suspects: list[Any]) -> None:
        """RankDied if the process of one of the suspects has ended, or does within `DEATH_SECONDS`."""
        for ref in self._place.wait(suspects, num_returns=len(suspects), timeout=DEATH_SECONDS)[0]:
            try:
                self._place.get(ref)
            except RayTaskError:
                continue
            except RayError as error:
                reason = str(error).splitlines()[0]
                raise RankDied(f"learner rank {refs.index(ref)} died in {method}: {reason}") from error


def _take(rows: Sequence[Any], shards: Sequence[Sequence[int | None]]) -> list[list[Any]]:
    return [[None if index is None else rows[index] for index in shard] for shard in shards]


def _worst_tokens(batch: PolicyBatch, worst: Sequence[tuple[float, int, float]]) -> list[dict[str, Any]]:
    """The tokens on which engine and learner disagree most, for the message of a run that stops."""
    ends = np.cumsum([len(member.response_ids) for member in batch.members])
    found = []
    for gap, index, logprob in worst:
        number = int(np.searchsorted(ends, index, side="right"))
        member = batch.members[number]
        place = index - int(ends[number] - len(member.response_ids))
        found.append(
            {
                "transition": member.id,
                "position": place,
                "token": int(member.response_ids[place]),
                "engine": float(member.behaviour_logprobs[place]),
                "learner": logprob,
                "gap": gap,
            }
        )
    return found
