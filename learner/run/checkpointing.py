"""When a run's checkpoints are due, and what if they cannot be written.

Invariant: where the disk is full the run goes on, and tries again after each step; after the last step it fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from learner.run.folder import NoRoom, Run
from learner.stream.stream import Cursor


class Checkpointing:
    """The checkpoints of one run."""

    def __init__(self, run: Run, learner: Any, say: Callable[[str], None]):
        self._run, self._learner, self._say = run, learner, say
        self._overdue = False
        self._rewards: list[float] = []
        """What the steps since the last checkpoint earned."""

    def due(self, step: int) -> bool:
        """Whether there is to be one after this learner step."""
        return self._overdue or step % self._run.cfg.checkpoint.every == 0 or step == self._run.cfg.rl.steps

    def earned(self, reward: float | None) -> None:
        """Mean reward of a learner step; None where nothing was rewarded."""
        if reward is not None:
            self._rewards.append(reward)

    def save(self, cursor: Cursor) -> bool:
        """Keep what a restart needs; whether that succeeded.

        Raises:
            NoRoom: the disk is full after the last step.
        """
        try:
            folder = self._run.save(cursor, self._learner, float(np.mean(self._rewards)) if self._rewards else None)
        except NoRoom as error:
            if cursor.step == self._run.cfg.rl.steps:
                raise
            self._overdue = True
            self._say(f"no checkpoint of step {cursor.step}: {error}; trying again after the next step")
            return False
        self._overdue, self._rewards = False, []
        self._say(f"checkpoint {folder}")
        return True
