"""What an actor tells of what it does: fresh, bounded, and of no weight to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from actors import acting
from actors.acting import EXPERIMENT, FEW, LOG, PROPOSAL, TEXT, Acts, Said
from envs.records import Durations, Outcome, State, StepResult
from learner.run.acting import SILENT, said

RESULT = StepResult("edit", Outcome.EDITED, 0.5, float("nan"), "", "x" * 3 * LOG, Durations(), State("s", "wine", "s"))


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acting, "INTERVAL", 0.005)


def told(run: Path, when: Callable[[Said], bool]) -> Said:
    """What actor-0 says, once it is so."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found = said(run, time.time())
        if found and when(found[0]):
            return found[0]
        time.sleep(0.005)
    raise AssertionError(f"it says {said(run, time.time())}")


def test_an_action_is_told_from_its_proposal_over_its_experiment_to_what_came_of_it(tmp_path: Path) -> None:
    acts = Acts("actor-0", tmp_path)
    with acts.doing("g/0", "wine") as runs:
        now = told(tmp_path, lambda of: bool(of.doing))
        assert [(one.id, one.task, one.part) for one in now.doing] == [("g/0", "wine", PROPOSAL)] and not now.tried
        runs()
        now = told(tmp_path, lambda of: of.doing[0].part == EXPERIMENT)
        assert now.doing[0].since >= now.doing[0].began
    acts.tried("g/0", "wine", "\ud83d" + "y" * 3 * TEXT, RESULT, 0.25)
    now = told(tmp_path, lambda of: bool(of.tried))
    (one,) = now.tried
    assert (one.id, one.outcome, one.reward, one.before, one.after) == ("g/0", "edited", 0.25, 0.5, None)
    assert (len(one.text), len(one.log), now.doing) == (TEXT, LOG, ())
    acts.close()
    assert list(tmp_path.iterdir()) == [], "it is gone with its actor"


def test_however_many_actions_there_are_few_are_told_those_begun_first_and_those_ended_last(tmp_path: Path) -> None:
    acts = Acts("actor-0", tmp_path)
    with acts.doing("first", "wine"), acts.doing("same", "wine"):
        with acts.doing("same", "wine"):  # of a group that was given back and comes again
            pass
        several = [acts.doing(f"g/{number}", "wine") for number in range(50)]
        for one in several:
            one.__enter__()
            acts.tried("g", "wine", str(len(several)), RESULT, None)
        acts.tried("last", "wine", "", RESULT, None)
        now = told(tmp_path, lambda of: bool(of.tried) and of.tried[-1].id == "last")
        assert [one.id for one in now.doing[:3]] == ["first", "same", "g/0"] and len(now.doing) == FEW == len(now.tried)
    acts.close()


def test_a_disk_that_takes_nothing_and_an_actor_that_has_gone_cost_the_view_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, tried = Acts("actor-0", tmp_path / "moved aside"), threading.Event()
    write = gone._write

    def once(now: float) -> None:
        try:
            write(now)
        finally:
            tried.set()

    monkeypatch.setattr(gone, "_write", once)
    with gone.doing("g/0", "wine"):
        assert tried.wait(20)
    gone.close()
    assert list(tmp_path.iterdir()) == [], "a run's folder that is gone is not made again"
    acts = Acts("actor-0", tmp_path)
    with acts.doing("g/0", "wine"):
        written = told(tmp_path, lambda of: bool(of.doing)).written
        assert said(tmp_path, written + SILENT + 1) == []
        (tmp_path / "acting/actor-1.json").write_text("{")
        assert [one.actor for one in said(tmp_path, time.time())] == ["actor-0"]
    acts.close()
