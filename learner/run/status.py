"""What a run is doing now, as one record, kept in `<run>/status.json` (`panel` shows it).

Invariant: a run is starting, then running, then one of the three that have ended, which is written last: after all that
the run started has ended.
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

from envs.errors import FAILURES

LOCK = ".lock"
"""File of a run's folder that the process which has the run keeps locked."""
KILLED = "its driver was killed, or its machine went away"


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
