"""`<run>/tasks.json`: what a reward needs to know of a run's tasks, as they were measured when it ran.

Invariant: it holds no path and no answer, so that a run folder can be looked at anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import msgspec

from envs.errors import UserError
from envs.records import Direction, Limits, Task

FILE = "tasks.json"


class NoFigures(UserError):
    """A run without them; the message names the file."""


@dataclass(frozen=True)
class TaskFigures:
    """Of one task, as of `envs.records.Task`."""

    id: str
    metric: str
    direction: Direction
    split: str
    limits: Limits
    m_best: float | None
    m_init: float | None
    digest: str = ""
    fidelity: float = 1.0


def write(run_dir: Path, tasks: Iterable[Task]) -> None:
    names = [field.name for field in fields(TaskFigures)]
    figures = [TaskFigures(**{name: getattr(task, name) for name in names}) for task in tasks]
    file = Path(run_dir) / FILE
    partial = file.with_suffix(".partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")
    partial.replace(file)


def read(run_dir: Path) -> dict[str, TaskFigures]:
    """By task id.

    Raises:
        NoFigures: the file is missing or damaged.
    """
    file = Path(run_dir) / FILE
    try:
        return {one.id: one for one in msgspec.json.decode(file.read_bytes(), type=list[TaskFigures])}
    except FileNotFoundError as error:
        raise NoFigures(f"{file} is missing: the run is of an earlier version, or did not get to its tasks") from error
    except (OSError, msgspec.DecodeError) as error:
        raise NoFigures(f"{file} cannot be read: {error}") from error
