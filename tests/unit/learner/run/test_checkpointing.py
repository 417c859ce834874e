"""When checkpoints are due, what reward each is told, and that a full disk is outlived until the last step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from learner.config.load import load
from learner.run.checkpointing import Checkpointing
from learner.run.folder import NoRoom
from learner.stream.stream import Cursor

EVERY, STEPS = 3, 8


class Run:
    """In the place of the run's folder, on a disk that is full at some steps."""

    def __init__(self) -> None:
        self.cfg = load([f"checkpoint.every={EVERY}", f"rl.steps={STEPS}"])
        self.full: set[int] = set()
        self.saved: dict[int, float | None] = {}

    def save(self, cursor: Cursor, learner: object, reward: float | None) -> Path:
        if cursor.step in self.full:
            raise NoRoom("the disk is full")
        self.saved[cursor.step] = reward
        return Path(f"step_{cursor.step}")


def after_steps(run: Run, rewards: dict[int, float | None]) -> list[str]:
    """Goes through these learner steps as a run does; returns what the user is told."""
    said: list[str] = []
    checkpointing = Checkpointing(run, SimpleNamespace(), said.append)
    for step, reward in rewards.items():
        due = checkpointing.due(step)
        checkpointing.earned(reward)
        if due:
            checkpointing.save(Cursor(step))
    return said


def test_each_checkpoint_is_told_what_the_steps_since_the_one_before_earned():
    run = Run()
    rewards = {1: 0.0, 2: None, 3: 1.0, 4: 0.25, 5: 0.25, 6: 0.25, 7: None, 8: None}
    after_steps(run, rewards)
    assert run.saved == {3: 0.5, 6: 0.25, 8: None}


def test_where_the_disk_is_full_each_step_tries_again_and_nothing_earned_is_forgotten():
    run = Run()
    run.full = {3, 4}
    said = after_steps(run, {1: 0.0, 2: 0.0, 3: 0.0, 4: 1.0, 5: 1.5, 6: 0.25, 7: 0.25})
    assert run.saved == {5: 0.5, 6: 0.25}, "in time again, and no longer overdue"
    assert [line.partition(":")[0] for line in said] == [
        "no checkpoint of step 3", "no checkpoint of step 4", "checkpoint step_5", "checkpoint step_6",
    ]  # fmt: skip


def test_after_the_last_step_a_full_disk_is_an_error():
    run = Run()
    run.full = {STEPS}
    with pytest.raises(NoRoom):
        after_steps(run, {STEPS: 0.0})
