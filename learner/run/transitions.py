"""Transitions on disk: `<run>/transitions/part-NNNNN.parquet`, one file per learner step, and `STAGE.parquet` with the
attempts of each evaluation (`base`, `sft`, `rl`).

Invariants: a file is complete or absent (it is written beside its place and renamed); writing a step or a stage again
replaces its file, so a resumed run doubles nothing; the schema is fixed, whatever values a step happens to hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from envs.errors import UserError
from envs.records import Transition
from learner.algorithm.step_report import StepReport

_SPAN = pa.struct([("version", pa.int32()), ("start", pa.int32()), ("end", pa.int32())])

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("id", pa.string()),
        ("group_id", pa.string()),
        ("state_id", pa.string()),
        ("task_id", pa.string()),
        ("actor_id", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("response_ids", pa.list_(pa.int32())),
        ("behaviour_logprobs", pa.list_(pa.float32())),
        ("version_spans", pa.list_(_SPAN)),
        ("text", pa.string()),
        ("action", pa.string()),
        ("outcome", pa.string()),
        ("fault", pa.string()),
        ("reward", pa.float64()),
        ("future", pa.float64()),
        ("reward_parts", pa.map_(pa.string(), pa.float64())),
        ("score_before", pa.float64()),
        ("best_before", pa.float64()),
        ("score_after", pa.float64()),
        ("test_score", pa.float64()),
        ("advantage", pa.float64()),
        ("ratio", pa.float64()),
        ("loss", pa.float64()),
        ("log_tail", pa.string()),
        ("generate_seconds", pa.float64()),
        ("queue_seconds", pa.float64()),
        ("restore_seconds", pa.float64()),
        ("execute_seconds", pa.float64()),
        ("grade_seconds", pa.float64()),
        ("peak_mb", pa.float64()),
        ("milestones", pa.list_(pa.string())),
        ("origin", pa.string()),
        ("findings", pa.map_(pa.string(), pa.string())),
    ]
)
"""`step` is the learner step (1, 2, …) that trained on the row, null of an attempt. `advantage`, `ratio` (mean over the
response's tokens of the policy over the behaviour policy) and `loss` (the row's part of the step's loss) are the
learner's, null where it gave none. `test_score` is beside `score_after`, of the test part of the answers, null where
they have no parts: nothing is trained on it. `findings` is what an audit found suspicious in the action
(`envs.records.Finding`), with why, and `fault` what is wrong with an invalid one (`envs.records.Fault`).
`future` is what is expected to be earned from the reached state on, discounted (`rl.discount`): in the advantage it
counts as the reward does. Files of earlier versions lack these three and `best_before`.
"""


class DamagedError(UserError, ValueError):
    """A file that cannot be read; the message names it."""


def write(run_dir: Path, step: int, groups: Sequence[Sequence[Transition]], report: StepReport) -> Path:
    """Write the groups that learner step `step` trained on, with what it reports of each; return the file."""
    figures = {"advantage": report.advantages, "ratio": report.ratios, "loss": report.losses}
    return _write(path(run_dir, step), [_row(one, step, figures) for group in groups for one in group])


def write_attempts(run_dir: Path, stage: str, attempts: Sequence[Transition]) -> Path:
    """Write what an evaluation tried; nothing was trained on it."""
    return _write(path(run_dir, stage), [_row(one, None, {}) for one in attempts])


def _write(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    file.parent.mkdir(exist_ok=True)
    partial = file.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), partial, compression="zstd")
    partial.replace(file)
    return file


def parts(run_dir: Path) -> set[int | str]:
    """The learner steps and the evaluations' stages that there is a file of."""
    names = [file.stem for file in Path(run_dir).glob("transitions/*.parquet")]
    return {int(name[5:]) if name.startswith("part-") else name for name in names}


def read(run_dir: Path, columns: Sequence[str] | None = None, counted: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Every row in order of learner steps, as plain Python values; only `columns` where given.

    counted: columns that hold lists, of which only the lengths are wanted.

    Raises:
        DamagedError: a file is.
    """
    for step in sorted(part for part in parts(run_dir) if isinstance(part, int)):
        yield from read_part(run_dir, step, columns, counted)


def read_part(
    run_dir: Path, part: int | str, columns: Sequence[str] | None = None, counted: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """As `read`, of a learner step or of what an evaluation tried; nothing where it is not kept. Raises DamagedError
    as that."""
    file = path(run_dir, part)
    return _read(file, columns, counted).to_pylist(maps_as_pydicts="strict") if file.exists() else []


def prompts(run_dir: Path, part: int | str) -> dict[str, list[int]]:
    """The prompt of each group of a learner step, or of an evaluation's stage, as token ids by group id.

    Raises:
        DamagedError: the file is.
    """
    table = _read(path(run_dir, part), ["group_id", "prompt_ids"], ())
    groups = table["group_id"].to_pylist()
    first: dict[str, int] = {}
    for place, group in enumerate(groups):
        first.setdefault(group, place)
    return dict(zip(first, table["prompt_ids"].take(list(first.values())).to_pylist(), strict=True))


def _read(file: Path, columns: Sequence[str] | None, counted: Sequence[str]) -> pa.Table:
    try:
        table = pq.ParquetFile(file).read(columns=columns and list(columns))
    except pa.ArrowException as error:
        raise DamagedError(f"{file} is damaged: {error}") from error
    for name in counted:
        table = table.set_column(table.column_names.index(name), name, pc.list_value_length(table[name]))
    return table


def truncate_after(run_dir: Path, step: int) -> None:
    """Delete the files of steps after `step`: the run continues from a checkpoint of that step."""
    for file in Path(run_dir).glob("transitions/part-*.parquet"):
        if file > path(run_dir, step):
            file.unlink()


def path(run_dir: Path, part: int | str) -> Path:
    """The file of a learner step, or of an evaluation's stage."""
    name = part if isinstance(part, str) else f"part-{part:05d}"
    return Path(run_dir) / "transitions" / f"{name}.parquet"


def _row(transition: Transition, step: int | None, figures: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    values = vars(transition) | vars(transition.info)
    row = {name: values[name] for name in SCHEMA.names if name in values}
    row |= {"step": step, "outcome": str(transition.outcome), "origin": str(transition.info.origin)}
    withheld = transition.info.withheld
    row["test_score"] = withheld and withheld.on_test
    row["version_spans"] = [{"version": v, "start": i, "end": j} for v, i, j in transition.version_spans]
    row |= {name: by_id.get(transition.id) for name, by_id in figures.items()}
    for part, seconds in asdict(transition.info.durations).items():
        row[f"{part}_seconds"] = seconds
    return row
