"""`python learner/experts.py`: the expert stage alone, interrupted and resumed, and taken over by another run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from envs.records import Outcome
from envs.workspace import SnapshotStore
from learner.recipe import trajectories
from tests.main_job import MARK, ROOT, engine_answers, leftovers, output, wait_until

WANTED = {"experts.trajectories": 48, "experts.steps": 3, "experts.mistakes": 0.3}


def start(folder: Path, model: Path, *arguments: str) -> subprocess.Popen:
    command = [
        sys.executable, "learner/experts.py", f"run.dir={folder}", f"model.path={model}", "tasks.held_in=[wine]",
        "tasks.held_out=[]", f"sandbox.backend={'docker' if engine_answers() else 'process'}",
        *(f"{name}={value}" for name, value in WANTED.items()), *arguments,
    ]  # fmt: skip
    said = (folder.parent / f"{folder.name}.output").open("a")
    environment = {**os.environ, MARK: str(folder), "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def explored(tmp_path_factory, tiny_model) -> Path:
    """The folder of a run that was interrupted and resumed."""
    folder = tmp_path_factory.mktemp("runs")
    growing = folder / "run" / trajectories.GROWING
    process = start(folder, tiny_model)
    try:
        wait_until(lambda: growing.exists() and "\n" in growing.read_text(), 120, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130, output(folder)
        before = growing.read_text().count("\n")
        assert 0 < before < WANTED["experts.trajectories"], "the interrupt came too late to test resuming"
        process = start(folder, tiny_model, "run.resume=true")
        assert process.wait(180) == 0, output(folder)
    finally:
        process.kill()
    assert leftovers(folder) == []
    return folder / "run"


def test_every_trajectory_is_made_once_and_for_real(explored):
    found = trajectories.read(explored)
    assert sorted(one.number for one in found) == list(range(WANTED["experts.trajectories"]))
    assert all(1 <= len(one.ideas) <= 3 for one in found)
    outcomes = Counter(move.result.outcome for one in found for move in one.moves)
    assert outcomes[Outcome.EDITED] > 32 and outcomes[Outcome.INVALID] + outcomes[Outcome.SCRIPT_ERROR] > 16
    assert outcomes[Outcome.INFRA_FAILURE] == 0
    assert len({move.text for one in found for move in one.moves}) > 32
    (pool,) = json.loads((explored / "ideas.json").read_text()).values()
    assert pool["candidates"] >= 100 and len(pool["ideas"]) == 10
    assert {text for one in found for text in one.ideas} <= {idea["text"] for idea in pool["ideas"]}


def test_another_run_takes_the_trajectories_over(explored, tiny_model):
    folder = explored.parent
    process = start(folder, tiny_model, "run.name=second", f"experts.path={explored}", "run.mode=serial")
    assert process.wait(120) == 0, output(folder)
    found = trajectories.read(folder / "second")
    assert found == trajectories.read(explored)
    snapshots = SnapshotStore(folder / "second" / "snapshots")
    for state in (move.state for one in found for move in one.moves):
        assert snapshots.get(state.snapshot) is not None
