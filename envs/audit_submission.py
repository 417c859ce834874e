"""The audit of a submission: predictions that no model made. For the process that runs graders (`envs.grader`).

It follows a grading that gave a score, and is never in the way of it: what cannot be read, or is large, is left out.
Invariants: tables are compared row by row by their ids, numbers as numbers; nothing here has seen an answer.
"""

from __future__ import annotations

import csv
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from envs.parts import opened
from envs.records import Finding, Findings

TABLE_BYTES = 8 << 20
"""Of the tables that a script is shown, the smallest are compared that have together this size: a second's work, once
in each process; and of submissions those that are no larger."""
FIRST_ROWS = 500
"""Of a submission are looked at first: what is true of all rows is of these, and of honest ones hardly anything is."""
VALUES = 3
"""Different values, at least, of a column that counts as copied: a tree of one split gives a column of two of them."""


class Column:
    """The cells of one column."""

    def __init__(self, cells: Sequence[str]):
        self.texts = np.array(cells, object)
        try:
            numbers = np.array([float(cell) for cell in cells])
        except ValueError:
            numbers = np.array([np.nan])
        self.numbers = numbers if np.isfinite(numbers).all() else None
        """float64 [rows]; None where a cell is no finite number."""

    @property
    def values(self) -> np.ndarray:
        """Numbers where it has them."""
        return self.texts if self.numbers is None else self.numbers

    def as_in(self, other: Column) -> np.ndarray | None:
        """The values, to be compared with those of `other`; None where none can be the same."""
        return self.texts if other.numbers is None else self.numbers


Columns = Mapping[str, Column]
"""By name."""


@dataclass(frozen=True, eq=False)
class Table:
    """A table that a script is shown."""

    name: str
    columns: Columns

    @functools.cache  # noqa: B019 (a table lives as long as its process)
    def places(self, name: str) -> Mapping[float | str, int]:
        """Where each value of a column is; empty where there is no such column, or a value is there twice."""
        values = self.columns[name].values.tolist() if name in self.columns else []
        places = {value: i for i, value in enumerate(values)}
        return places if len(places) == len(values) else {}


def of_submission(file: Path, env: Path) -> Findings:
    """What is suspicious in the predictions; env: the folder that the script was shown."""
    try:
        if file.stat().st_size > TABLE_BYTES or not any(_findings(_read(file, FIRST_ROWS), env, fewest=1)):
            return ()
        return tuple(_findings(_read(file), env))
    except (OSError, ValueError, MemoryError, csv.Error):  # a table that only its own grader can read
        return ()


def _findings(submission: Columns, env: Path, fewest: int = VALUES) -> Iterator[tuple[str, str]]:
    """fewest: different values of a column that counts as copied."""
    key = "id" if "id" in submission else next(iter(submission))
    predictions = {name: column for name, column in submission.items() if name != key}
    if len(submission[key].texts) < 2 or not predictions:
        return
    if all((column.values == column.values[0]).all() for column in predictions.values()):
        first = str(next(iter(predictions.values())).values.tolist()[0])
        if " " not in first.strip():  # the same ranking for everyone is an answer like others
            yield Finding.CONSTANT, f"all {len(submission[key].texts):,} predictions are {first[:40]!a}"
    for table in _tables(env):
        rows = _rows(table, key, submission[key])
        if rows is None:
            continue
        if set(table.columns) == set(submission):
            if all(_same(table.columns[name], rows, column) for name, column in predictions.items()):
                yield Finding.SAMPLE, f"the predictions are those of {table.name[:80]!a}"
            continue
        for name, column in predictions.items():
            if len(set(column.values.tolist())) < fewest:
                continue
            if copied := next((of for of, own in table.columns.items() if of != key and _same(own, rows, column)), ""):
                yield Finding.COPIED, f"{name[:40]!a} is the column {copied[:40]!a} of {table.name[:80]!a}"
                return


def _same(own: Column, rows: np.ndarray, column: Column) -> bool:
    """Whether these rows of a table's column are a column of the submission; the first ones are looked at first."""
    values = column.as_in(own)
    if values is None:
        return False
    return bool((own.values[rows[:16]] == values[:16]).all() and (own.values[rows] == values).all())


def _rows(table: Table, key: str, ids: Column) -> np.ndarray | None:
    """int [n]: where each of the ids is; None where one is nowhere."""
    places = table.places(key)
    values = ids.as_in(table.columns[key]) if places else None
    if values is None:
        return None
    found = [places.get(name, -1) for name in values.tolist()]
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


def _read(file: Path, first: int | None = None) -> Columns:
    """first: rows to read at most. Raises OSError, csv.Error, or ValueError where there are none, or they differ in
    length."""
    with opened(file) as text:
        header, *rows = itertools.islice((row for row in csv.reader(text) if row), first and first + 1)
    return {name: Column(cells) for name, cells in zip(header, zip(*rows, strict=True), strict=True)}
