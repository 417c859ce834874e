"""Experiment trackers beside the journal's TensorBoard files: `run.track` names them.

Invariants: a tracker's package is imported only when it is named; a resumed run goes on in the same tracked run, and a
new one of the same name in another, since steps that were tracked before are dropped; no key is configured here
(trackers read their own environment variables).
"""

from __future__ import annotations

import importlib
import importlib.util
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from envs.errors import UserError

PROJECT = "mlagent"
VIEW = {
    "1 learning": ("reward_mean", "valid_rate", "distinct_valid", "truncated_rate", "equal_share", "repeated_share"),
    "2 update": ("loss", "grad_norm", "entropy", "kl", "ratio_mean", "clip_fraction", "logprob_gap_mean"),
    "3 speed": (
        "seconds", "wait_seconds", "train_seconds", "publish_seconds", "tokens_per_s", "staleness_max", "stream_ready",
    ),
}  # fmt: skip
"""What W&B shows first: it makes a section of the charts whose names begin alike, in alphabetical order."""
OTHERS = "9 others"


class TrackerError(UserError):
    """A tracker that cannot be used; the message names it and what to do."""


class Tracker(Protocol):
    """Somewhere that figures of learner steps are sent."""

    def log(self, figures: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class _Wandb:
    def __init__(self, wandb: Any, run_dir: Path, config: dict[str, Any]):
        self._run = wandb.init(
            project=PROJECT, id=_id(run_dir), name=run_dir.name, dir=str(run_dir), config=config, resume="allow"
        )
        self._run.define_metric("held_out/*", step_metric="held_out/step")  # it is told with a later learner step

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(sectioned(figures), step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    def __init__(self, mlflow: Any, run_dir: Path, config: dict[str, Any]):
        self._mlflow, known = mlflow, run_dir / "mlflow_run_id"
        mlflow.set_experiment(PROJECT)
        before = _kept(known)
        run = mlflow.start_run(run_id=before, run_name=run_dir.name)
        if not before:
            _keep(known, run.info.run_id)
            mlflow.log_dict(config, "config.yaml")

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(figures), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class _Trackio:
    def __init__(self, trackio: Any, run_dir: Path, config: dict[str, Any]):
        self._trackio = trackio
        trackio.init(project=PROJECT, name=_id(run_dir), config=config, resume="allow")

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._trackio.log(dict(figures), step=step)

    def close(self) -> None:
        self._trackio.finish()


def _id(run_dir: Path) -> str:
    """By which a tracker knows the run of that folder from others of its name."""
    known, rows = run_dir / "tracked_id", run_dir / "metrics.jsonl"
    if not (name := _kept(known)):
        begun = rows.exists() and rows.stat().st_size  # under an earlier version, which told it by its name alone
        name = run_dir.name if begun else f"{run_dir.name}-{secrets.token_hex(4)}"
        _keep(known, name)
    return name


def _kept(file: Path) -> str | None:
    """None where there is nothing, as in what an earlier version wrote on a full disk."""
    return (file.read_text() or None) if file.exists() else None


def _keep(file: Path, text: str) -> None:
    """All of it or nothing."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text)
    partial.replace(file)


def sectioned(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures of a learner step by the names of `VIEW`; those of parts, as `task_rewards/wine`, have sections."""
    places = {name: f"{section}/{name}" for section, names in VIEW.items() for name in names}
    return {places.get(name, name if "/" in name else f"{OTHERS}/{name}"): value for name, value in figures.items()}


KINDS: dict[str, Callable[[Any, Path, dict[str, Any]], Tracker]] = {
    "wandb": _Wandb, "mlflow": _Mlflow, "trackio": _Trackio,
}  # fmt: skip


def missing(names: Sequence[str]) -> str | None:
    """Which of these trackers is not installed, and what to do; None if all are."""
    return next((_not_installed(name) for name in names if importlib.util.find_spec(name) is None), None)


def _not_installed(name: str) -> str:
    return f"run.track names {name}, which is not installed: pip install {name}, or leave it out of run.track"


def start(names: Sequence[str], run_dir: Path, config: dict[str, Any]) -> list[Tracker]:
    """The trackers of these names; run_dir: of the run, whose name they take; config: what is shown of it there.

    Raises:
        TrackerError: a package is missing, or its tracker does not start.
    """
    trackers: list[Tracker] = []
    try:
        for name in names:
            try:
                module = importlib.import_module(name)
            except ImportError as error:
                raise TrackerError(_not_installed(name)) from error
            try:
                trackers.append(KINDS[name](module, run_dir, config))
            except Exception as error:  # whatever it raises, the user needs to know which tracker
                raise TrackerError(f"the tracker {name} of run.track does not start: {error}") from error
    except TrackerError:
        for tracker in trackers:
            tracker.close()
        raise
    return trackers
