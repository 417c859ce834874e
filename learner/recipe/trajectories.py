"""Trajectories on disk: `trajectories.parquet`, a row per action of an expert, and the file that it grows from.

Invariants: everything that a trajectory holds can be read back; the Parquet file is complete or absent; a trajectory is
in the growing file as soon as it has ended, so that an interruption costs only those that are under way.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from actors.expert.trajectory import Ending, Move, Trajectory
from envs.errors import UserError
from envs.records import Durations, Origin, Outcome, State, StepResult

PARQUET = "trajectories.parquet"
GROWING = "trajectories.jsonl"
TEXT, NUMBER = pa.string(), pa.float64()
STATE = pa.struct(
    [
        ("id", TEXT),
        ("task_id", TEXT),
        ("snapshot", TEXT),
        ("history", pa.list_(pa.struct([("action", TEXT), ("observation", TEXT)]))),
        ("score", NUMBER),
        ("reference", NUMBER),
        ("undo", pa.list_(pa.struct([("snapshot", TEXT), ("score", NUMBER)]))),
        ("kind", TEXT),
        ("best", NUMBER),
        ("unrun", pa.int64()),
    ]
)
"""Trajectories of earlier versions lack the last two."""
SCHEMA = pa.schema(
    [
        ("trajectory", pa.int64()),
        ("number", pa.int64()),
        ("step", pa.int64()),
        ("task", TEXT),
        ("expert", TEXT),
        ("ideas", pa.list_(TEXT)),
        ("ending", TEXT),
        ("failure", TEXT),
        ("action", TEXT),
        ("kind", TEXT),
        ("outcome", TEXT),
        ("score_before", NUMBER),
        ("score_after", NUMBER),
        ("observation", TEXT),
        ("log_tail", TEXT),
        ("queue", NUMBER),
        ("restore", NUMBER),
        ("execute", NUMBER),
        ("grade", NUMBER),
        ("peak_mb", NUMBER),
        ("milestones", pa.list_(TEXT)),
        ("origin", TEXT),
        ("before", STATE),
        ("after", STATE),
    ]
)
"""`action` is the text that was written, `kind` what it was parsed as; scores in the task's own metric."""


class TrajectoryError(UserError):
    """Trajectories that cannot be read; the message names the file and what to do."""


def append(folder: Path, trajectory: Trajectory) -> None:
    """Add a trajectory to the growing file of a run."""
    with (folder / GROWING).open("ab") as file:
        file.write(msgspec.json.encode(trajectory) + b"\n")


def grown(folder: Path) -> list[Trajectory]:
    """What the growing file of an interrupted run holds; a line that was cut off is cut off the file, too."""
    file, whole, length = folder / GROWING, [], 0
    *lines, _ = file.read_bytes().split(b"\n") if file.exists() else [b""]
    for line in lines:
        try:
            whole.append(msgspec.json.decode(line, type=Trajectory))
        except msgspec.DecodeError:
            break
        length += len(line) + 1
    if file.exists():
        os.truncate(file, length)  # which needs no room on a disk that may be full
    return whole


def save(trajectories: Iterable[Trajectory], folder: Path) -> Path:
    """Write the Parquet file of a run and delete the growing one."""
    rows = [
        {
            "trajectory": index,
            "number": trajectory.number,
            "step": step,
            "task": trajectory.task_id,
            "expert": trajectory.expert,
            "ideas": trajectory.ideas,
            "ending": trajectory.ending,
            "failure": trajectory.failure,
            "action": text,
            "kind": result.action,
            "before": _record(state),
            "after": _record(result.state),
            **{name: getattr(result, name) for name in ("score_before", "score_after", "observation", "log_tail")},
            **{name: getattr(result, name) for name in ("outcome", "peak_mb", "milestones", "origin")},
            **asdict(result.durations),
        }
        for index, trajectory in enumerate(trajectories)
        for step, (state, text, result) in enumerate(trajectory.moves)
    ]
    file = folder / PARQUET
    partial = file.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), partial)
    partial.replace(file)
    (folder / GROWING).unlink(missing_ok=True)
    return file


def read(folder: Path) -> list[Trajectory]:
    """The trajectories of a run; those without an action are not among them.

    Raises:
        TrajectoryError: the file is missing or has another form.
    """
    file = Path(folder) / PARQUET
    try:
        rows = pq.read_table(file, schema=SCHEMA).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise TrajectoryError(
            f"{file} cannot be read, `python learner/experts.py` makes such a file: {error}"
        ) from error
    return [_trajectory(list(part)) for _, part in itertools.groupby(rows, key=lambda row: row["trajectory"])]


def _record(state: State) -> dict[str, object]:
    return {**asdict(state), "undo": [{"snapshot": snapshot, "score": score} for snapshot, score in state.undo]}


def _trajectory(rows: list[dict]) -> Trajectory:
    first, moves = rows[0], []
    for row in rows:
        durations = Durations(*(row[name] for name in ("queue", "restore", "execute", "grade")))
        result = StepResult(
            row["kind"], Outcome(row["outcome"]), row["score_before"], row["score_after"], row["observation"],
            row["log_tail"], durations, _state(row["after"]), row["peak_mb"], tuple(row["milestones"]),
            Origin(row["origin"]),
        )  # fmt: skip
        moves.append(Move(_state(row["before"]), row["action"], result))
    return Trajectory(
        first["task"], first["number"], first["expert"], tuple(first["ideas"]), tuple(moves), Ending(first["ending"]),
        first["failure"],
    )  # fmt: skip


def _state(record: dict) -> State:
    undo = tuple((step["snapshot"], step["score"]) for step in record["undo"])
    return msgspec.convert({**record, "undo": undo, "unrun": record["unrun"] or 0}, type=State)
