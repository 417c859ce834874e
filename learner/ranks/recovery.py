"""What happens when a rank dies: all are started again, and brought to where they were.

They load the last checkpoint and repeat the batches since. Invariant: the result is that of an undisturbed run.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TypeVar

from envs.records import Transition
from learner.ranks.group import LearnerError, RankDied, RankGroup
from learner.ranks.steps import Position, policy_step

Result = TypeVar("Result")


class Recovery:
    """Remembers what a group of ranks has done since its last checkpoint, to do it again."""

    def __init__(self, ranks: RankGroup, position: Position, say: Callable[[str], None]) -> None:
        """position: set back where a restart sets training back; say: tells the user of a restart."""
        self._ranks, self._position, self._say = ranks, position, say
        self._restarts = 0
        self._finetuned = False
        self._saved: Path | None = None
        self._reference: Path | None = None
        self._batches: list[tuple[Sequence[Sequence[Transition]], int]] = []

    def surviving(self, call: Callable[[], Result]) -> Result:
        """The call's result; where a rank dies in it, all start again and it is made again."""
        while True:
            try:
                return call()
            except RankDied as error:
                self.restart(error)

    def restart(self, reason: LearnerError) -> None:
        """Bring all ranks to where they were before the call that failed, whoever dies meanwhile.

        Raises:
            LearnerError: the reason, where that is not to be had; or another failure on the way.
        """
        while True:
            try:
                return self._restart(reason)
            except RankDied as error:
                if error is reason:  # it was given up
                    raise
                reason = error

    def _restart(self, reason: LearnerError) -> None:
        self._restarts += 1
        cfg = self._ranks.cfg
        if self._restarts > cfg.learner.restarts or (self._finetuned and not self._saved):
            raise reason
        self._say(f"{reason}; the learner starts again from {self._saved or self._ranks.model_dir}")
        self._ranks.close()
        self._ranks.start()
        position = self.load(self._saved) if self._saved else Position()
        if self._reference:
            self._ranks.everyone("hold_reference", self._reference)
        for groups, version in self._batches:
            position.trained(cfg.rl, policy_step(self._ranks, cfg, groups, version, position))
        self._position.sft_steps = position.sft_steps

    def load(self, folder: Path) -> Position:
        """Where the ranks are after they have loaded a checkpoint."""
        state = self._ranks.everyone("load", folder)[0]  # and more, of DeepSpeed's own
        return Position(
            **{field.name: state[field.name] for field in dataclasses.fields(Position) if field.name in state}
        )

    def save(self, folder: Path) -> None:
        """Have the ranks write a checkpoint. Raises LearnerError where they cannot; training can go on."""
        try:
            self.surviving(lambda: self._ranks.everyone("save", folder, dataclasses.asdict(self._position)))
        except LearnerError as error:
            if len(self._ranks) > 1:  # the others wait in a collective for the one that could not write
                self.restart(error)
            raise
        self.goes_back_to(folder)

    def saving(self, folder: Path) -> Generator[None, None, bool]:
        """As `save`, while training goes on: yields as long as the ranks write. Returns whether all of it is there: not
        where a rank died meanwhile, and all were brought back to where they were. Raises LearnerError as `save`."""
        state = dataclasses.asdict(self._position)
        self.surviving(lambda: self._ranks.everyone("begin_save", folder, state))
        restarts, batches = self._restarts, len(self._batches)
        try:
            there = yield from self._written(restarts)
            if there:
                self._ranks.everyone("write_model", folder)
                there = yield from self._written(restarts)
        except RankDied as error:
            self.restart(error)
            return False
        if there:
            self.goes_back_to(folder, batches)
        return there

    def _written(self, restarts: int) -> Generator[None, None, bool]:
        """Yields as long as ranks write; returns whether they could, which none of those can that were started since.

        Raises LearnerError where one failed, once none writes; RankDied where one takes too long.
        """
        seconds = self._ranks.cfg.learner.deadline
        end = time.monotonic() + seconds
        while any(writing := self._ranks.everyone("writing")):
            if time.monotonic() > end:
                late = writing.index(True)
                raise RankDied(f"learner rank {late} did not write its files in {seconds:g} s (learner.deadline)")
            yield
            if self._restarts != restarts:
                return False
        self._ranks.everyone("finish_write")
        return True

    def goes_back_to(self, folder: Path, batches: int | None = None) -> None:
        """This checkpoint is where the ranks are now, or were after so many of the batches since the one before."""
        self._saved, self._batches = folder, [] if batches is None else self._batches[batches:]

    def moved(self, folder: Path) -> None:
        """That checkpoint is now elsewhere."""
        self._saved = folder

    def trained(self, groups: Sequence[Sequence[Transition]], version: int) -> None:
        """A learner step was made."""
        self._batches.append((groups, version))

    def finetuned(self) -> None:
        """Fine-tuning has ended: a checkpoint on the way no longer holds what was trained."""
        self._saved, self._finetuned = None, True

    def holds_reference(self, folder: Path) -> None:
        self._reference = folder
