"""What a run is doing now, as one record: kept in `<run>/status.json`, shown as a panel or as a line.

Rendering is pure: a status and the time of day in, rich renderables or text out. Invariant: a run is starting, then
running, then one of the three that have ended, which is written last: after all that the run started has ended.
"""

from __future__ import annotations

import dataclasses
import enum
import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from envs.errors import FAILURES
from envs.records import Outcome
from learner.figures.text import duration, number
from learner.figures.waiting import in_words

COLOURS = {
    Outcome.EDITED: "green",
    Outcome.NEUTRAL: "blue",
    Outcome.INVALID: "yellow",
    Outcome.TRUNCATED: "bright_yellow",
    Outcome.SCRIPT_ERROR: "red",
    Outcome.TIMEOUT: "magenta",
    Outcome.OUT_OF_MEMORY: "bright_magenta",
    Outcome.INFRA_FAILURE: "bright_black",
}
BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 32
"""Columns of the sparkline and of the bar of outcomes."""
LOCK = ".lock"
"""File of a run's folder that the process which has the run keeps locked."""
KILLED = "its driver was killed, or its machine went away"
SILENT_SECONDS = 30.0
"""A running driver rewrites its status far more often; after this long without, the panel says so."""


class State(enum.StrEnum):
    """What has become of a run."""

    STARTING = "starting"
    RUNNING = "running"
    """All of its parts are there."""
    INTERRUPTED = "interrupted"
    """By Ctrl-C, SIGTERM or SIGHUP; it can go on."""
    FAILED = "failed"
    """`Status.reason` says why."""
    DONE = "done"

    @property
    def ended(self) -> bool:
        return self not in (State.STARTING, State.RUNNING)


@dataclass(frozen=True)
class Stage:
    """One stage of the run; times are seconds since the epoch."""

    name: str
    started: float
    total: int
    """Steps in all; 0 where that is not known beforehand."""
    first: int = 0
    """Steps that were done before this process began (a resumed run)."""
    done: int = 0
    ended: float | None = None


@dataclass(frozen=True)
class Point:
    """Mean reward on held-out tasks beside training, with the bounds of its 95 % interval where it has one."""

    step: int
    """After which learner step."""
    reward: float
    reward_low: float | None = None
    reward_high: float | None = None


@dataclass(frozen=True)
class Status:
    """The run as a whole; times are seconds since the epoch."""

    run: str
    started: float
    written: float = 0.0
    result: State = State.STARTING
    reason: str = ""
    """Why it failed, in one line."""
    stages: tuple[Stage, ...] = ()
    rewards: tuple[float, ...] = ()
    """Mean reward of each learner step so far."""
    held_out: tuple[Point, ...] = ()
    """So far."""
    valid_rate: float | None = None
    outcomes: dict[str, int] = field(default_factory=dict)
    """Outcomes of the last learner step's transitions."""
    actors_alive: int = 0
    actors_total: int = 0
    experiments: int = 0
    """Experiments in flight."""
    queued: int = 0
    """Actions that wait for a place in a sandbox."""
    doing: str = ""
    """What the learner does in the stage reinforce, such as `trains`."""
    doing_since: float = 0.0
    tokens_per_s: float | None = None
    staleness_max: int | None = None
    waited_for: dict[str, float] = field(default_factory=dict)
    """`learner.figures.waiting.waited_for` of the last learner step."""
    figures: dict[str, float | None] = field(default_factory=dict)
    """Any other number that the run reports."""
    messages: tuple[str, ...] = ()
    """The last few, oldest first."""


def point(figures: Mapping[str, Any]) -> Point:
    """Of those that the journal has of it."""
    return Point(**{one.name: figures[one.name] for one in dataclasses.fields(Point)})


def read(file: Path) -> Status:
    return msgspec.json.decode(file.read_bytes(), type=Status)


def of(run_dir: Path) -> Status | None:
    """What has become of the run in that folder; one whose driver is gone without a word has failed. None where none
    has begun. Raises msgspec.DecodeError where the file is damaged."""
    file = Path(run_dir) / "status.json"
    if not file.exists():
        return None
    status = read(file)
    if status.result.ended or owned(Path(run_dir)):
        return status
    return dataclasses.replace(status, result=State.FAILED, reason=KILLED)


def owned(run_dir: Path) -> bool:
    """Whether a process has the run, on whatever machine that sees its folder."""
    try:
        with (run_dir / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def write(file: Path, status: Status) -> None:
    """Replace the file in one move, so that a reader never sees half of it."""
    partial = file.with_suffix(".partial")
    partial.write_bytes(msgspec.json.encode(status))
    os.replace(partial, file)


def end(error: BaseException | None) -> tuple[State, str]:
    """What a run has become that ended with this error (None: with none), and the reason, in one line."""
    if error is None:
        return State.DONE, ""
    if isinstance(error, KeyboardInterrupt):
        return State.INTERRUPTED, ""
    cause = getattr(error, "cause", error)  # Ray wraps what a remote call raised
    first = next(iter(str(cause).strip().splitlines()), "")
    return State.FAILED, first if isinstance(cause, FAILURES) and first else f"{type(cause).__name__}: {first}"


def line(status: Status, now: float, learner_step: bool = False) -> str:
    """One line for a log: stage, steps, figures and, for the line of a learner step, what it trained on."""
    stage = status.stages[-1]
    parts = [f"{stage.name} {count(stage)}".rstrip()]
    if learner_step and status.rewards:
        parts += [f"reward {status.rewards[-1]:.3f}", f"valid {status.valid_rate or 0:.0%}"]
        parts += [", ".join(f"{count} {name}" for name, count in _present(status))]
    parts += [*known_figures(status), waiting(status)]
    if (left := seconds_left(stage, now)) is not None:
        parts.append(f"{duration(left)} left")
    return f"[{duration(now - status.started)}] " + " · ".join(part for part in parts if part)


def panel(status: Status, now: float, messages: int = 0) -> RenderableType:
    """The live view; with the last `messages` messages where they are not shown elsewhere."""
    colour = "red" if status.result.ended else "cyan"
    colour = "green" if status.result is State.DONE else colour
    lives = not status.result.ended
    elapsed = duration((now if lives else status.written) - status.started)
    parts: list[RenderableType] = [_stages(status, now)]
    if status.rewards or status.actors_total or status.figures:
        parts += [Text(), _numbers(status)]
    if status.reason:
        parts.append(Text(status.reason, style="bold red"))
    if lives and now - status.written > SILENT_SECONDS:
        parts.append(Text(f"no sign of the driver for {duration(now - status.written)}", style="bold red"))
    shown = status.messages[len(status.messages) - messages :] if messages else ()
    parts += [Text(f"› {message}", style="dim", overflow="ellipsis", no_wrap=True) for message in shown]
    title = Text.assemble((f" {status.run} ", "bold"), (f"{status.result} ", colour))
    return Panel(
        Group(*parts),
        title=title,
        title_align="left",
        subtitle=f" {elapsed} ",
        subtitle_align="right",
        border_style=colour,
        box=box.ROUNDED,
        padding=(0, 1),
    )


def seconds_left(stage: Stage, now: float) -> float | None:
    """Time left in a stage at its pace so far; None where nothing is known yet."""
    steps = stage.done - stage.first
    if stage.ended is not None or steps <= 0 or stage.done >= stage.total:
        return None
    return (now - stage.started) / steps * (stage.total - stage.done)


def sparkline(values: tuple[float, ...], width: int = WIDTH) -> str:
    """The last `width` values as bars between their minimum and maximum."""
    shown = values[-width:]
    low, high = min(shown), max(shown)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((value - low) * scale)] for value in shown)


def _present(status: Status) -> list[tuple[str, int]]:
    """Outcomes that occurred, by their name in words."""
    return [(name.replace("_", " "), count) for name, count in status.outcomes.items() if count]


def count(stage: Stage) -> str:
    """Steps that are done, of all where these are known."""
    return f"{stage.done}/{stage.total}" if stage.total else str(stage.done or "")


def known_figures(status: Status) -> list[str]:
    """The learner's figures that are known."""
    known = {
        "loss {:.4g}": status.figures.get("loss"),
        "staleness {}": status.staleness_max,
        "log-prob gap {:.3f}": status.figures.get("logprob_gap_mean"),
        "{:.0f} tok/s": status.tokens_per_s,
    }
    return [text.format(value) for text, value in known.items() if value is not None]


def last_point(status: Status) -> tuple[str, str]:
    """The newest reward on held-out tasks, and its interval and step in words."""
    last = status.held_out[-1]
    interval = "" if last.reward_low is None else f"{number(last.reward_low)} to {number(last.reward_high)}, "
    return number(last.reward), f"{interval}after step {last.step}"


def waiting(status: Status) -> str:
    """What the last learner step waited for, in words."""
    figures = status.figures
    if not figures.get("wait_seconds"):
        return ""
    return in_words(status.waited_for, figures.get("publish_seconds") or 0.0, figures.get("seconds") or 0.0)


def _stages(status: Status, now: float) -> Table:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(width=1)
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    for stage in status.stages:
        if stage.ended is not None:
            took = duration(stage.ended - stage.started)
            grid.add_row(Text("✓", "green"), Text(stage.name), Text(count(stage)), Text(), Text(took, "dim"))
            continue
        left = seconds_left(stage, now)
        bar = ProgressBar(
            total=stage.total or None,
            completed=stage.done,
            pulse=not stage.total,
            animation_time=now,
            complete_style="cyan",
            pulse_style="cyan",
        )
        when = f"{duration(left)} left" if left is not None else duration(now - stage.started)
        grid.add_row(Text("●", "cyan"), Text(stage.name, "bold"), Text(count(stage)), bar, Text(when, "cyan"))
    return grid


def _numbers(status: Status) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    if status.rewards:
        grid.add_row(
            "reward",
            Text.assemble(
                (sparkline(status.rewards), "cyan"),
                (f"  {status.rewards[-1]:.3f}", "bold"),
                f"  valid {status.valid_rate or 0:.0%}  ",
                ("each step of other states", "dim"),
            ),
        )
    if status.held_out:
        curve = sparkline(tuple(point.reward for point in status.held_out))
        reward, note = last_point(status)
        grid.add_row("held-out", Text.assemble((curve, "cyan"), (f"  {reward}", "bold"), (f"  {note}", "dim")))
    if total := sum(status.outcomes.values()):
        bar = [("█" * round(WIDTH * n / total), COLOURS[name]) for name, n in status.outcomes.items()]
        legend = [(f"■ {n} {name}  ", COLOURS[name.replace(" ", "_")]) for name, n in _present(status)]
        grid.add_row("outcomes", Text.assemble(*bar))
        grid.add_row("", Text.assemble(*legend))
    if status.actors_total and not status.result.ended:
        lost = status.actors_alive < status.actors_total
        up = (f"{status.actors_alive}/{status.actors_total} up", "bold red" if lost else "")
        grid.add_row("actors", Text.assemble(up, f" · experiments in flight: {status.experiments}"))
    if figures := known_figures(status):
        grid.add_row("learner", " · ".join(figures))
    if waited := waiting(status):
        grid.add_row("", waited)
    return grid
