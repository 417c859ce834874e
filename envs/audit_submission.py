"""The audit of a submission: predictions that no model made. For the process that runs graders (`envs.grader`).

It follows a grading that gave a score, and is never in the way of it: what cannot be read, or is large, is left out.
Invariants: tables are compared row by row by their ids, numbers as numbers; nothing here has seen an answer.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from envs.parts import opened
from envs.records import Finding, Findings

TABLE_BYTES = 8 << 20
"""Of the tables that a script is shown, the smallest are compared that have together this size: a second's work, once
in each process; and of submissions those that are no larger."""
VALUES = 3
"""Different values, at least, of a column that counts as copied: a tree of one split gives a column of two of them."""

Columns = Mapping[str, np.ndarray]
"""By name: float64 [rows], or objects (str) where one is no finite number."""


@dataclass(frozen=True, eq=False)
class Table:
    """A table that a script is shown."""

    name: str
    columns: Columns

    @functools.cache  # noqa: B019 (a table lives as long as its process)
    def places(self, name: str) -> Mapping[float | str, int]:
        """Where each value of a column is; empty where there is no such column, or a value is there twice."""
        values = self.columns[name].tolist() if name in self.columns else []
        places = {value: i for i, value in enumerate(values)}
        return places if len(places) == len(values) else {}


def of_submission(file: Path, env: Path) -> Findings:
    """What is suspicious in the predictions; env: the folder that the script was shown."""
    try:
        if file.stat().st_size > TABLE_BYTES:
            return ()
        return tuple(_findings(_read(file), env))
    except (OSError, ValueError, MemoryError, csv.Error):  # a table that only its own grader can read
        return ()


def _findings(submission: Columns, env: Path) -> Iterator[tuple[str, str]]:
    key = "id" if "id" in submission else next(iter(submission))
    predictions = {name: column for name, column in submission.items() if name != key}
    if len(submission[key]) < 2 or not predictions:
        return
    if all((column == column[0]).all() for column in predictions.values()):
        first = next(iter(predictions.values())).tolist()[0]
        if " " not in str(first).strip():  # the same ranking for everyone is an answer like others
            yield Finding.CONSTANT, f"all {len(submission[key]):,} predictions are {str(first)[:40]!a}"
    for table in _tables(env):
        rows = _rows(table.places(key), submission[key])
        if rows is None:
            continue
        if set(table.columns) == set(submission):
            if all(_same(table.columns[name], rows, column) for name, column in predictions.items()):
                yield Finding.SAMPLE, f"the predictions are those of {table.name[:80]!a}"
            continue
        for name, column in predictions.items():
            if copied := next(
                (of for of, own in table.columns.items() if of != key and _copied(own, rows, column)), None
            ):
                yield Finding.COPIED, f"{name[:40]!a} is the column {copied[:40]!a} of {table.name[:80]!a}"
                return


def _copied(own: np.ndarray, rows: np.ndarray, column: np.ndarray) -> bool:
    return _same(own, rows, column) and len(set(column.tolist())) >= VALUES


def _same(own: np.ndarray, rows: np.ndarray, column: np.ndarray) -> bool:
    """Whether these rows of a table's column are a column of the submission; the first ones are looked at first."""
    if own.dtype != column.dtype:
        return False
    return bool((own[rows[:16]] == column[:16]).all() and (own[rows] == column).all())


def _rows(places: Mapping[float | str, int], ids: np.ndarray) -> np.ndarray | None:
    """int [n]: where each of the ids is; None where one is nowhere."""
    wanted = ids.tolist()
    if wanted[0] not in places:
        return None
    found = [places.get(name, -1) for name in wanted]
    return None if min(found) < 0 else np.array(found)


@functools.lru_cache(maxsize=1)
def _tables(env: Path) -> tuple[Table, ...]:
    """Those in a task's folder."""
    found, size = [], 0
    for file in sorted(env.rglob("*.csv"), key=lambda path: (path.stat().st_size, path)):
        size += file.stat().st_size
        if size > TABLE_BYTES:
            break
        try:
            found.append(Table(str(file.relative_to(env)), _read(file)))
        except (OSError, ValueError, csv.Error):
            continue
    return tuple(found)


def _read(file: Path) -> Columns:
    """Raises OSError, csv.Error, or ValueError where it has no rows, or they differ in length."""
    with opened(file) as text:
        header, *rows = (row for row in csv.reader(text) if row)
        columns = list(zip(*rows, strict=True))
    return dict(zip(header, map(_values, columns), strict=True))


def _values(cells: tuple[str, ...]) -> np.ndarray:
    try:
        numbers = np.array([float(cell) for cell in cells])
    except ValueError:
        return np.array(cells, object)
    return numbers if np.isfinite(numbers).all() else np.array(cells, object)
