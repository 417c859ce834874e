"""Trackers beside the journal: those that are installed get every step; one that fails costs the run nothing."""

from __future__ import annotations

import importlib
import json
import logging
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest

from learner.run import trackers
from learner.run.journal import Journal
from learner.run.trackers import TrackerError


class Broken:
    def log(self, figures, step):
        raise ConnectionError("no route to host")

    def close(self):
        pass


def test_a_tracker_that_fails_costs_its_figures_and_not_the_run(tmp_path, caplog):
    with Journal(tmp_path, [Broken()]) as journal, caplog.at_level(logging.WARNING):
        journal.append({"step": 1, "loss": 0.5})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": 0.5}
    assert "step 1 is not in broken: no route to host" in caplog.text


@pytest.mark.parametrize("name", trackers.KINDS)
def test_a_tracker_that_is_not_installed_is_refused_with_what_to_do(name, tmp_path, monkeypatch):
    def missing(asked: str):
        raise ModuleNotFoundError(f"No module named {asked!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(TrackerError, match=f"pip install {name}"):
        trackers.start([name], tmp_path, {})


class Wandb:
    """What of the package is called: it is seldom installed."""

    def __init__(self) -> None:
        self.logged, self.defined, self.ids = [], [], []

    def init(self, id, **_):
        self.ids.append(id)
        return self

    def log(self, figures, step):
        self.logged.append((step, figures))

    def define_metric(self, name, step_metric):
        self.defined.append((name, step_metric))


def test_wandb_gets_sections_and_a_curve_on_held_out_tasks_at_the_steps_that_it_is_of(tmp_path):
    wandb = Wandb()
    tracker = trackers.KINDS["wandb"](wandb, tmp_path, {})
    row = {"step": 9, "reward_mean": 0.5, "age_seconds_max": 2.0, "held_out": {"step": 8, "reward": 0.7}, "loss": None}
    with Journal(tmp_path, [tracker]) as journal:
        tracker.close = lambda: None
        journal.append(row)
    ((step, figures),) = wandb.logged
    assert step == 9 and figures == {
        "1 learning/reward_mean": 0.5, "9 others/age_seconds_max": 2.0, "held_out/step": 8, "held_out/reward": 0.7,
    }  # fmt: skip
    assert wandb.defined == [("held_out/*", "held_out/step")]


def test_a_new_run_of_the_same_name_is_another_tracked_one(tmp_path):
    """Else its steps, which were tracked before, are dropped."""
    wandb, run_dir = Wandb(), tmp_path / "mine"
    for earlier in (None, None, "moved aside"):
        if earlier:
            run_dir.rename(tmp_path / earlier)
        run_dir.mkdir(exist_ok=True)
        trackers.KINDS["wandb"](wandb, run_dir, {})
    first, resumed, new = wandb.ids
    assert first == resumed != new and all(name.startswith("mine-") for name in wandb.ids)


def test_a_run_that_an_earlier_version_tracked_by_its_name_alone_goes_on_there(tmp_path):
    wandb, run_dir = Wandb(), tmp_path / "mine"
    run_dir.mkdir()
    (run_dir / "metrics.jsonl").write_text('{"step": 1}\n')
    for _ in range(2):
        trackers.KINDS["wandb"](wandb, run_dir, {})
    assert wandb.ids == ["mine", "mine"]


def test_a_full_disk_leaves_no_part_of_what_a_run_is_known_by(tmp_path):
    wandb = Wandb()
    _, most = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))  # nothing can be written
    try:
        with pytest.raises(OSError, match="File too large"):
            trackers.KINDS["wandb"](wandb, tmp_path, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "tracked_id").exists()


@pytest.mark.parametrize("file", ["tracked_id", "mlflow_run_id"])
def test_an_empty_file_is_no_name_of_a_run(tmp_path, file):
    asked = []

    class Mlflow:
        def start_run(self, run_id, run_name):
            asked.append(run_id)
            return SimpleNamespace(info=SimpleNamespace(run_id="given"))

        def __getattr__(self, _):
            return lambda *_: None

    (tmp_path / file).touch()
    wandb = Wandb()
    for _ in range(2):
        trackers.KINDS["wandb"](wandb, tmp_path, {})
        trackers.KINDS["mlflow"](Mlflow(), tmp_path, {})
    assert wandb.ids[0] == wandb.ids[1] and wandb.ids[0].startswith(f"{tmp_path.name}-")
    assert asked == [None, "given"]


@pytest.fixture(params=trackers.KINDS)
def installed(request, tmp_path: Path, monkeypatch) -> str:
    try:
        importlib.import_module(request.param)
    except ImportError:
        pytest.skip(f"NOT TESTED, {request.param} is not installed: pip install {request.param}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    return request.param


def test_a_resumed_run_goes_on_in_the_same_tracked_run(installed, tmp_path):
    run_dir = tmp_path / "mine"
    run_dir.mkdir()
    for step in (1, 2):
        (tracker,) = trackers.start([installed], run_dir, {"run": {"name": "mine"}})
        tracker.log({"reward_mean": 0.5 * step, "outcomes/edited": 3.0}, step)
        tracker.close()
    if installed == "mlflow":
        import mlflow

        (found,) = mlflow.search_runs(experiment_names=[trackers.PROJECT], output_format="list")
        history = mlflow.MlflowClient().get_metric_history(found.info.run_id, "reward_mean")
        assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 1.0)]
    if installed == "wandb":
        names = [path.name for path in (run_dir / "wandb").glob("offline-run-*")]
        assert len(names) == 2 and all(name.endswith(trackers._id(run_dir)) for name in names)
    if installed == "trackio":
        import trackio

        (run,) = trackio.Api().runs(trackers.PROJECT)
        assert run.name == trackers._id(run_dir)
