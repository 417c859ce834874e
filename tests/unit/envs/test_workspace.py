"""Snapshots and workspaces: what a state is restored from, and into."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from envs.records import Direction, Limits, State, Task
from envs.workspace import SnapshotStore, restore


@pytest.fixture
def task(tmp_path: Path) -> Task:
    env = tmp_path / "env"
    (env / "data" / "deep").mkdir(parents=True)
    (env / "train.py").write_text("original")
    (env / "train.csv").write_text("rows")
    (env / "data" / "deep" / "part.csv").write_text("part")
    return Task(
        "toy", "", env, tmp_path / "scripts", "train.py", frozenset(), "accuracy", Direction.MAXIMIZE, "held_in",
        Limits(), 1.0,
    )  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


def test_a_snapshot_is_named_by_its_content(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "snapshots")
    files = {"b.py": "naïve\r\n", "a/x.py": ""}
    name = store.put(files)
    assert store.get(name) == files
    assert store.put(dict(reversed(files.items()))) == name != store.put({})
    assert SnapshotStore(tmp_path / "snapshots").get(name) == files
    with pytest.raises(FileNotFoundError):
        store.get("unknown")


def test_only_snapshots_that_no_state_needs_are_deleted(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "snapshots")
    now, before, stale, young = (store.put({"train.py": text}) for text in ("now", "before", "stale", "young"))
    kept = State("s", "toy", now, undo=((before, 0.5),))
    for name in (now, before, stale):
        os.utime(tmp_path / "snapshots" / f"{name}.json", (0, time.time() - 100))
    assert store.collect([kept], older_than=60) == 1
    again = SnapshotStore(tmp_path / "snapshots")
    assert [again.get(name)["train.py"] for name in (now, before, young)] == ["now", "before", "young"]
    with pytest.raises(FileNotFoundError):
        again.get(stale)


def test_a_snapshot_that_a_step_comes_to_again_is_young_again(tmp_path: Path) -> None:
    name = SnapshotStore(tmp_path / "snapshots").put({"train.py": "x"})
    os.utime(tmp_path / "snapshots" / f"{name}.json", (0, time.time() - 100))
    store = SnapshotStore(tmp_path / "snapshots")
    assert store.put({"train.py": "x"}) == name
    assert store.collect([], older_than=60) == 0 and store.get(name) == {"train.py": "x"}


def test_any_fsspec_path_holds_snapshots(tmp_path: Path) -> None:
    here = f"memory://{tmp_path}"  # other tests of this process may have some elsewhere
    name = SnapshotStore(here).put({"train.py": "x"})
    other = SnapshotStore(here)
    assert other.get(name) == {"train.py": "x"} and other.collect([], older_than=60) == 0
    assert other.collect([], older_than=-1) == 1


def test_files_are_copies_and_the_rest_links_into_the_read_only_task(task: Task, workspace: Path) -> None:
    restore(task, {"train.py": "edited", "data/deep/new.py": "new", "lib/helper.py": "helper"}, workspace)
    assert (workspace / "train.py").read_text() == "edited" and not (workspace / "train.py").is_symlink()
    assert os.readlink(workspace / "train.csv") == "/task/train.csv"
    assert os.readlink(workspace / "data/deep/part.csv") == "/task/data/deep/part.csv"
    assert (workspace / "data/deep/new.py").read_text() == "new" and (workspace / "lib/helper.py").exists()
    restore(task, {}, workspace)
    assert sorted(os.listdir(workspace)) == ["data", "train.csv", "train.py"]
    assert os.readlink(workspace / "data") == "/task/data" and (task.env_dir / "train.py").read_text() == "original"


def test_emptying_follows_no_link_and_minds_no_depth_or_permission(task: Task, workspace: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    (workspace / "link").symlink_to(outside)
    (workspace / "moved-0").mkdir()
    (workspace / "closed" / "in").mkdir(parents=True)
    (workspace / "closed" / "in" / "file").write_text("x")
    (workspace / "closed").chmod(0)
    os.mkfifo(workspace / "pipe")
    here = os.getcwd()
    os.chdir(workspace)
    for _ in range(1500):
        os.mkdir("d" * 20)
        os.chdir("d" * 20)
    os.chdir(here)
    workspace.chmod(0o500)
    restore(task, {}, workspace)
    assert sorted(os.listdir(workspace)) == ["data", "train.csv", "train.py"] and (outside / "kept").is_dir()


def test_a_link_out_of_the_task_is_not_entered(task: Task, workspace: Path) -> None:
    task.private_dir.mkdir()
    (task.private_dir / "answers.csv").write_text("secret")
    (task.env_dir / "link").symlink_to(task.private_dir)
    restore(task, {"link/x.py": "own"}, workspace)
    assert os.listdir(workspace / "link") == ["x.py"]


@pytest.mark.parametrize("name", ["../out.py", "/tmp/out.py", "a/../../out.py"])
def test_a_path_out_of_the_workspace_is_refused(task: Task, workspace: Path, name: str) -> None:
    with pytest.raises(ValueError, match="out of the workspace"):
        restore(task, {name: "x"}, workspace)
