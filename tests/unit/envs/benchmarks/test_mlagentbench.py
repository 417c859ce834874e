"""`mlagentbench:NAME` is a task of a clone that was prepared as that benchmark does; else it says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from envs.benchmarks.loader import TaskError, load
from envs.benchmarks.mlagentbench import STATED
from envs.records import Direction


@pytest.fixture
def clone(tmp_path: Path, monkeypatch) -> Path:
    """The folder of tasks of a clone, with cifar10 before its preparation."""
    folder = tmp_path / "MLAgentBench/benchmarks/cifar10"
    (folder / "env").mkdir(parents=True)
    (folder / "scripts").mkdir()
    (folder / "env/train.py").write_text("print('training')\n")
    (folder / "scripts/research_problem.txt").write_text("Classify small pictures.")
    (folder / "scripts/eval.py").write_text("def get_score(submission_folder):\n    return 0.5\n")
    (folder / "scripts/prepare.py").write_text("raise SystemExit('it would download the data')\n")
    monkeypatch.setenv("MLAGENTBENCH_DATA", str(folder.parent))
    monkeypatch.setenv("MLAGENT_CACHE", str(tmp_path / "cache"))
    return folder


def test_a_prepared_task_is_taken_as_it_is_with_the_papers_metric(clone):
    with pytest.raises(TaskError, match=r"cifar10 is not prepared: run `python -m MLAgentBench.prepare_task cifar10`"):
        load("mlagentbench:cifar10")
    (clone / "scripts/prepared").touch()
    before = sorted(path.name for path in clone.rglob("*"))
    task = load("mlagentbench:cifar10")
    assert (task.id, task.metric, task.direction, task.actions) == (
        "cifar10", "accuracy", Direction.MAXIMIZE, "mlagentbench",
    )  # fmt: skip
    assert task.limits.seconds == 1800 and task.problem == "Classify small pictures."
    assert sorted(path.name for path in clone.rglob("*")) == before, "the clone is left as it was"
    (clone / "env/train.py").write_text("print('another script')\n")
    assert "another" in (load("mlagentbench:cifar10").env_dir / "train.py").read_text()


def test_what_a_file_beside_it_states_wins_and_others_need_one(clone):
    (clone / "scripts/prepared").touch()
    clone.with_name("cifar10.yaml").write_text("metric: error\ndirection: minimize\n")
    assert load("mlagentbench:cifar10").metric == "error"
    other = clone.rename(clone.with_name("imdb"))
    with pytest.raises(TaskError, match=r"imdb/task.yaml is missing"):
        load("mlagentbench:imdb")
    assert "imdb" not in STATED and other.exists()


def test_without_a_clone_it_says_how_to_get_one(clone, monkeypatch):
    with pytest.raises(TaskError, match=r"nowhere/env is missing: MLAGENTBENCH_DATA is not"):
        load("mlagentbench:nowhere")
    monkeypatch.delenv("MLAGENTBENCH_DATA")
    with pytest.raises(TaskError, match=r"MLAGENTBENCH_DATA must name .*git clone .*prepare_task cifar10"):
        load("mlagentbench:cifar10")
