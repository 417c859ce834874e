"""The trajectories of another run are taken over with all that acting from their states needs."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from actors.expert.trajectory import Ending, Move, Trajectory
from envs.environment import Environment
from envs.records import Direction, Durations, Experiment, Limits, Outcome, Task
from envs.workspace import SnapshotStore
from learner.config.load import load
from learner.recipe import trajectories
from learner.recipe.exploration import ExplorationError, explore


class Runs:
    """In the place of the sandbox: every script runs."""

    name, running = "runs", 0

    def run(self, task: Task, files: dict[str, str]) -> Experiment:
        return Experiment(Outcome.EDITED, 0.5, "", Durations())


@pytest.fixture
def task(tmp_path: Path) -> Task:
    (tmp_path / "env").mkdir()
    (tmp_path / "env/train.py").write_text("0\n")
    return Task(
        "toy", "", tmp_path / "env", tmp_path, "train.py", frozenset(), "accuracy", Direction.MAXIMIZE, "held_in",
        Limits(), 1.0, m_init=0.5,
    )  # fmt: skip


@pytest.fixture(params=["", "elsewhere"])
def source(task: Task, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A run that kept of three edits the last, so that what came before is known to Undo only."""
    folder, elsewhere = tmp_path / "source", request.param and str(tmp_path / request.param)
    folder.mkdir()
    OmegaConf.save(load([f"sandbox.snapshots={elsewhere}"]), folder / "config.yaml")
    environment = Environment({"toy": task}, Runs(), SnapshotStore(elsewhere or folder / "snapshots"))
    state, moves = environment.initial_state("toy"), []
    for value in (1, 2, 3):
        action = f"Action: Write\n```\n{value}\n```"
        result = environment.step(state, action)
        moves.append(Move(state, action, result))
        state = result.state
    trajectories.save([Trajectory("toy", 0, "builtin", (), tuple(moves[2:]), Ending.LEVEL)], folder)
    return folder


def test_from_a_state_that_was_taken_over_every_edit_can_be_undone(task, source, tmp_path):
    cfg, run_dir = load([f"experts.path={source}"]), tmp_path / "run"
    run_dir.mkdir()
    silent = SimpleNamespace(say=lambda text: None, show=lambda table: None)
    (taken,) = explore(cfg, {"toy": task}, contextlib.nullcontext(), run_dir, silent)
    environment = Environment({"toy": task}, Runs(), SnapshotStore(run_dir / "snapshots"))
    state = taken.moves[-1].result.state
    passed = [environment.files(state)["train.py"]]
    while state.undo:
        state = environment.step(state, "Action: Undo").state
        passed.append(environment.files(state)["train.py"])
    assert passed == ["3\n", "2\n", "1\n", "0\n"]
    assert trajectories.read(run_dir) == [taken], "a resumed run finds them in its own folder"


def test_trajectories_of_other_tasks_only_are_no_start(task, source, tmp_path):
    cfg, others = load([f"experts.path={source}"]), {"other": dataclasses.replace(task, id="other")}
    with pytest.raises(ExplorationError, match="they are of other tasks"):
        explore(cfg, others, contextlib.nullcontext(), tmp_path, SimpleNamespace(say=print))
