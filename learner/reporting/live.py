"""What a page that follows a run is told: what it and its actors do now, its plots, and what it tried, part by part.

Invariants: the run is only read; what is not there yet is nothing, and what is damaged is a `WatchError`; a part or a
plot is made again only where a file of it changed, so that a page which asks often costs the run little.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from omegaconf import OmegaConf

from envs.errors import UserError
from learner.config.load import RECORD
from learner.figures.text import SPLITS, duration, number, percent
from learner.reporting import acts, browser, charts, report_data
from learner.run import journal, panel
from learner.run import status as statuses
from learner.run.status import Stage, Status

STEPS = 100
"""Newest learner steps whose transitions are shown; the report has them all."""
KEPT = 300
"""Answers that are kept, the last used."""
PLOTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "reward": (
        "Reward",
        "mean over transitions, at each step of other states; thin lines: each task",
        ("metrics.jsonl",),
    ),
    "held_out": ("Held-out reward", "95 % intervals", ("metrics.jsonl", "evaluation.json")),
    "outcomes": ("Outcomes", "share of transitions", ("metrics.jsonl",)),
    "waiting": ("What the learner waited for", "seconds of each step", ("metrics.jsonl",)),
    "finetuning": ("Fine-tuning", "loss in nats per response token", ("finetune.jsonl", "finetune.json")),
}
"""Title, note, and the files that a plot is made of."""


class WatchError(UserError):
    """What cannot be shown; the message names the folder or the file."""


class Live:
    """One run; may be asked by several threads."""

    def __init__(self, run_dir: Path):
        """Raises WatchError where the folder holds no run."""
        self.dir = Path(run_dir).resolve()
        if not (self.dir / RECORD).is_file():
            raise WatchError(f"{self.dir} holds no run (no {RECORD}): give a run's folder, as runs/quickstart")
        self._kept: collections.OrderedDict[tuple, Any] = collections.OrderedDict()
        self._lock = threading.RLock()  # what is made may ask for what was made

    def now(self) -> dict[str, Any]:
        """`state` (starting, running, …; waiting before anything was said), `reason`, `silent` (why nothing may be
        heard), `stages`, `cards` ([label, value, note]), `messages`, `parts` ([part, version]), `plots` ([name,
        version, title, note]), and of one that has not ended `doing` and `tried`, as of `acts`. Raises WatchError."""
        try:
            status, now = statuses.of(self.dir), time.time()
            return self._of_status(status, now) if status else {"run": self.dir.name, "state": "waiting"}
        except FileNotFoundError:  # a run that starts moves an earlier one of its name aside
            return {"run": self.dir.name, "state": "waiting"}
        except (msgspec.DecodeError, ValueError) as error:
            raise WatchError(f"a file of {self.dir} is damaged: {error}") from error

    def _of_status(self, status: Status, now: float) -> dict[str, Any]:
        plots = [
            [name, _version(*(self.dir / file for file in files)), title, note]
            for name, (title, note, files) in PLOTS.items()
            if (self.dir / files[0]).exists()
        ]
        return {
            "run": self.dir.name,
            "state": str(status.result),
            "reason": status.reason,
            "silent": _silent(status, now),
            "elapsed": duration((status.written if status.result.ended else now) - status.started),
            "stages": [_stage(stage, status, now) for stage in status.stages],
            "cards": list(self._cards(status, now)),
            "messages": list(status.messages),
            "parts": [[part, _version(browser.path(self.dir, part))] for part in self._parts()],
            "plots": plots,
            **({} if status.result.ended else acts.shown(self.dir, now)),
        }

    def index(self, part: browser.Part) -> dict[str, list]:
        """As `browser.index`, of a part. Raises WatchError."""
        return self._once("index", part, lambda: browser.index(browser.read(self.dir, part)))

    def block(self, part: browser.Part) -> dict[str, Any]:
        """As `browser.block`, of a part. Raises WatchError."""

        def made() -> dict[str, Any]:
            reader = browser.tokenizer(self.dir, self._config()["model"]["path"])
            return browser.block(self.dir, part, browser.read(self.dir, part), reader)

        return self._once("block", part, made)

    def plot(self, name: str) -> str:
        """SVG; empty where there is no figure yet. Raises WatchError where there is no such plot."""
        if name not in PLOTS:
            raise WatchError(f"there is no plot {name}: {', '.join(PLOTS)}")
        version = _version(*(self.dir / file for file in PLOTS[name][2]))
        return self._remembered(("plot", name, version), lambda: self._drawn(name) or "")

    def _parts(self) -> list[browser.Part]:
        there = browser.parts(self.dir)
        steps = [part for part in there if isinstance(part, int)]
        return [part for part in there if isinstance(part, str) or part in steps[-STEPS:]]

    def _once(self, what: str, part: browser.Part, make: Callable[[], Any]) -> Any:
        file = browser.path(self.dir, part)
        if part not in self._parts():
            raise WatchError(f"{self.dir} has no {part}")
        return self._remembered((what, part, _version(file)), make)

    def _remembered(self, key: tuple, make: Callable[[], Any]) -> Any:
        with self._lock:
            if key not in self._kept:
                try:
                    self._kept[key] = make()
                except (OSError, ValueError, pa.ArrowException) as error:
                    raise WatchError(str(error)) from error
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]

    def _config(self) -> Mapping[str, Any]:
        file = self.dir / RECORD
        return self._remembered(("config", _version(file)), lambda: OmegaConf.to_container(OmegaConf.load(file)))

    def _drawn(self, name: str) -> str | None:
        if name == "finetuning":
            return charts.finetuning(*report_data.finetuning(self.dir))
        rows = journal.read(self.dir)
        return charts.held_out(rows, report_data.results(self.dir)) if name == "held_out" else DRAWN[name](rows)

    def _cards(self, status: Status, now: float) -> Iterator[tuple[str, str, str]]:
        for split, stages in report_data.results(self.dir)["splits"].items():
            rewards, valid = (
                " → ".join(show(of[name]) for of in stages.values())
                for name, show in (("mean_reward", number), ("valid_rate", percent))
            )
            yield f"{SPLITS[split]} mean reward", rewards, f"{' → '.join(stages)}; valid actions {valid}"
        if status.rewards:
            steps = f"of learner step {len(status.rewards)}, on states of its own"
            yield "training reward", number(status.rewards[-1]), f"{steps}; valid {percent(status.valid_rate)}"
        if status.held_out:
            yield "held-out reward beside training", *panel.last_point(status)
        if status.result.ended or not status.stages:
            return
        if status.doing:
            yield "learner", f"{status.doing} ({duration(now - status.doing_since)})", self._groups(status)
        if status.actors_total:
            up = f"{status.actors_alive} of {status.actors_total} actors up"
            yield "experiments", f"{status.experiments} run, {status.queued} wait", up
        if waited := panel.waiting(status):
            shares, _, why = waited.partition(":")
            yield "the last learner step", shares, " · ".join([why.strip(), *panel.known_figures(status)])

    def _groups(self, status: Status) -> str:
        figures = status.figures
        if "stream_ready" not in figures:
            return ""
        ready, sampled = (int(figures[f"stream_{name}"] or 0) for name in ("ready", "in_flight"))
        return f"groups: {ready} ready, {sampled} sampled or run; a step takes {self._config()['rl']['states']}"


DRAWN: dict[str, Callable[[charts.Rows], str | None]] = {
    "reward": charts.reward,
    "outcomes": charts.outcomes,
    "waiting": charts.waiting,
}


def _version(*files: Path) -> str:
    """Another one where a file is."""
    return "-".join(map(_changed, files))


def _changed(file: Path) -> str:
    """When; empty where there is none, or none any more."""
    try:
        return str(file.stat().st_mtime_ns)
    except FileNotFoundError:
        return ""


def _stage(stage: Stage, status: Status, now: float) -> dict[str, Any]:
    """`name`, `count`, `share` of it that is done (null where that is not known) and `when`."""
    left = None if status.result.ended else panel.seconds_left(stage, now)
    if stage.ended is not None:
        share, when = 1.0, duration(stage.ended - stage.started)
    else:
        share = stage.done / stage.total if stage.total else None
        until = status.written if status.result.ended else now  # of a driver that was killed
        when = duration(until - stage.started) if left is None else f"{duration(left)} left"
    return {"name": stage.name, "count": panel.count(stage), "share": share, "when": when,
            "ended": stage.ended is not None}  # fmt: skip


def _silent(status: Status, now: float) -> str:
    silent = now - status.written
    if status.result.ended or silent <= panel.SILENT_SECONDS:
        return ""
    return f"no sign of the driver for {duration(silent)}"
