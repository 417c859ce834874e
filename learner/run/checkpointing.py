"""When a run's checkpoints are due, how they are written beside training, and what if they cannot be written.

Invariants: one is written at a time; the first and the last are waited for; one counts only when all of it is there.
Where the disk is full, or a rank died meanwhile, the run goes on and tries again after each step; after the last step
it fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from learner.run.folder import Lost, Run
from learner.stream.stream import Cursor

POLL_SECONDS = 0.1
"""Between looks at a checkpoint that is waited for."""


@dataclass(frozen=True)
class Begun:
    """A checkpoint that does not count yet."""

    step: int
    rewards: list[float]
    """What the steps since the one before earned."""
    writing: Generator[None, None, Path]
    """Of `Run.saving`."""
    last: bool
    """After the last learner step, where there is no next to try again after."""


class Checkpointing:
    """The checkpoints of one run."""

    def __init__(self, run: Run, learner: Any, say: Callable[[str], None]):
        self._run, self._learner, self._say = run, learner, say
        self._begun: Begun | None = None
        self._overdue = False
        self._rewards: list[float] = []
        """What the steps since the last checkpoint was begun earned."""
        self._judged: dict[int, float] = {}

    def due(self, step: int) -> bool:
        """Whether there is to be one after this learner step."""
        cfg = self._run.cfg
        evaluated = cfg.evaluation.every and step % cfg.evaluation.every == 0
        return bool(self._overdue or evaluated or step % cfg.checkpoint.every == 0 or step == cfg.rl.steps)

    def earned(self, reward: float | None) -> None:
        """Mean reward of a learner step; None where nothing was rewarded."""
        if reward is not None:
            self._rewards.append(reward)

    def judge(self, step: int, reward: float) -> None:
        """Mean reward on held-out tasks after a learner step, by which the best checkpoint is chosen."""
        self._judged[step] = reward
        self._choose()

    def _choose(self, forget: bool = False) -> None:
        """The best; forget: and delete what is too old, unless which one is best cannot be kept."""
        try:
            self._run.judge(self._judged, forget)
        except OSError as error:  # a full disk, as a rule
            self._say(f"checkpoints/best stays as it is: {error}; trying again after the next checkpoint")

    def save(self, cursor: Cursor, last: bool = False) -> bool:
        """Begin to keep what a restart needs, once the checkpoint before is there; whether one has come to count.

        last: no learner step follows, though fewer than `rl.steps` were done.

        Raises:
            NoRoom: the disk is full after the last step.
        """
        cfg = self._run.cfg
        before = self.settle(wait=True)
        # With adapters hardly anything but the model is written, which all ranks take part in merging; a learner whose
        # card the engine has can be asked for nothing, nor be started again.
        whole = cfg.learner.lora.rank or cfg.actors.colocate
        last = last or cursor.step == cfg.rl.steps
        beside = cfg.checkpoint.beside and not whole and cursor.step > 0 and not last
        earned = None if cfg.evaluation.every or not self._rewards else float(np.mean(self._rewards))
        writing = self._run.saving(cursor, self._learner, earned, beside)
        self._begun, self._rewards, self._overdue = Begun(cursor.step, self._rewards, writing, last), [], False
        return self.settle() or before

    def settle(self, wait: bool = False) -> bool:
        """Look after the checkpoint that is being written; whether it has come to count.

        wait: until it has, or has failed. Raises NoRoom as `save`.
        """
        if self._begun is None:
            return False
        begun, self._begun = self._begun, None
        try:
            while True:
                next(begun.writing)
                if not wait:
                    self._begun = begun
                    return False
                time.sleep(POLL_SECONDS)
        except StopIteration as end:
            self._say(f"checkpoint {end.value}")
            self._choose(forget=True)
            return True
        except Lost as error:
            if begun.last:
                raise
            self._overdue, self._rewards = True, begun.rewards + self._rewards
            self._say(f"no checkpoint of step {begun.step}: {error}; trying again after the next step")
            return False
