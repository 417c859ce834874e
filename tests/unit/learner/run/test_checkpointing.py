"""When checkpoints are due and count, what reward each is told, and what is outlived until the last step."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace

import pytest

from learner.config.load import load
from learner.run import checkpointing
from learner.run.checkpointing import Checkpointing
from learner.run.folder import Lost, NoRoom
from learner.stream.stream import Cursor

EVERY, STEPS = 3, 8


class Run:
    """In the place of the run's folder, on a disk that is full at some steps."""

    def __init__(self) -> None:
        self.cfg = load([f"checkpoint.every={EVERY}", f"rl.steps={STEPS}"])
        self.full: set[int] = set()
        self.lost: set[int] = set()
        self.looks = 0
        """That what is written beside training takes."""
        self.saved: dict[int, float | None] = {}
        self.beside: set[int] = set()

    def saving(
        self, cursor: Cursor, learner: object, reward: float | None, beside: bool
    ) -> Generator[None, None, Path]:
        if beside:
            self.beside.add(cursor.step)
            yield from [None] * self.looks
        if cursor.step in self.full:
            raise NoRoom("the disk is full")
        if cursor.step in self.lost:
            raise Lost("a rank died")
        self.saved[cursor.step] = reward
        return Path(f"step_{cursor.step}")

    def judge(self, rewards: dict[int, float], forget: bool) -> None:
        pass


def after_steps(run: Run, rewards: dict[int, float | None]) -> list[str]:
    """Goes through these learner steps as a run does; returns what the user is told."""
    said: list[str] = []
    checkpoints = Checkpointing(run, SimpleNamespace(), said.append)
    for step, reward in rewards.items():
        checkpoints.settle()
        due = checkpoints.due(step)
        checkpoints.earned(reward)
        if due:
            checkpoints.save(Cursor(step))
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


def test_beside_training_are_written_all_but_the_first_and_the_last_one_at_a_time(monkeypatch):
    monkeypatch.setattr(checkpointing, "POLL_SECONDS", 0.0)
    run, said = Run(), []
    run.looks = 3
    checkpoints = Checkpointing(run, SimpleNamespace(), said.append)
    assert checkpoints.save(Cursor(0)) and not checkpoints.settle()
    assert not checkpoints.save(Cursor(3))
    assert (checkpoints.settle(), checkpoints.settle()) == (False, False)
    assert run.saved.keys() == {0}
    assert checkpoints.settle() and run.saved.keys() == {0, 3}
    assert not checkpoints.save(Cursor(6))
    assert checkpoints.save(Cursor(STEPS)) and run.beside == {3, 6}
    assert said == [f"checkpoint step_{step}" for step in (0, 3, 6, STEPS)]


@pytest.mark.parametrize("why", ["full", "lost"])
def test_what_could_not_be_written_beside_training_is_tried_again_with_all_that_was_earned(why):
    run = Run()
    run.looks = 1
    getattr(run, why).add(3)
    said = after_steps(run, {1: 0.0, 2: 0.0, 3: 0.0, 4: 1.0, 5: 0.25, 6: 0.5, 7: 0.5, 8: 0.0})
    assert run.saved == {4: 0.25, 6: 0.375, 8: 0.25}
    assert said[0].startswith("no checkpoint of step 3: ") and said[0].endswith("; trying again after the next step")


def test_adapters_or_little_memory_have_checkpoints_waited_for():
    for key in ("learner.lora.rank=4", "checkpoint.beside=false"):
        run = Run()
        run.cfg = load([key, f"checkpoint.every={EVERY}", f"rl.steps={STEPS}"])
        after_steps(run, {3: 0.5})
        assert run.saved == {3: 0.5} and not run.beside


def test_a_full_disk_while_the_best_is_chosen_ends_nothing_and_it_is_chosen_later():
    run, said, chosen = Run(), [], []

    def judge(rewards: dict[int, float], forget: bool) -> None:
        if not run.saved:
            raise OSError(28, "No space left on device")
        chosen.append(dict(rewards))

    run.judge = judge
    checkpoints = Checkpointing(run, SimpleNamespace(), said.append)
    checkpoints.judge(0, 0.5)
    assert "checkpoints/best stays as it is: [Errno 28] No space left on device" in said[0]
    checkpoints.save(Cursor(0))
    assert chosen == [{0: 0.5}]
