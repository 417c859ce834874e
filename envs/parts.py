"""Validation and test: the two parts of a task's private answers, and of every submission.

What the policy sees, what is rewarded and which script is kept come from the validation part; the score on the test
part is reported, and used for nothing. Scripts predict all rows, and nothing that they see tells the parts apart.

Invariants: no row is in both parts, and every row in one; the same answers give the same parts, which cannot be worked
out without them; rows with like answers are divided evenly; what is cut keeps its rows as written and in their order.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd

VALIDATION, TEST = "validation", "test"
FEWEST = 40
"""Answers that are divided; of fewer, a part would say too little."""
IDS, REASON = "ids.json", "undivided.txt"

Rows = tuple[Sequence[Sequence[str]], Sequence[str]]
"""Some rows of a CSV table, one after the other: the cells of each, and its text as written."""
AT_ONCE = 1000
REMEMBERED = 100
"""So many thousands of rows."""


class Indivisible(ValueError):
    """Answers that are not divided; the message says why."""


class Unknown(ValueError):
    """A submission whose rows belong to no part; the message tells its author why."""


def divide(scripts: Path, env: Path, folder: Path) -> None:
    """Fill `folder` with validation/ and test/, each as `scripts` but with its part of the answers, and their ids; or,
    where the answers cannot be divided, with the reason. A grader finds ../env there as beside `scripts`."""
    folder.mkdir(parents=True)
    try:
        file, column, ids, targets = _answers(scripts, env)
    except (Indivisible, OSError, UnicodeDecodeError, csv.Error) as reason:
        (folder / REASON).write_text(str(reason))
        return
    tested = _drawn(targets, hashlib.sha256(file.read_bytes()).digest())
    parts = {VALIDATION: tested == 0, TEST: tested == 1}
    (folder / IDS).write_text(json.dumps([column, {name: np.array(ids)[of].tolist() for name, of in parts.items()}]))
    division = Division(folder)
    (folder / "env").symlink_to(env.absolute())
    for name in parts:
        shutil.copytree(scripts, folder / name, copy_function=os.link, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / name / file.name).unlink()
    with opened(file) as table:
        division.cut(read(table), folder, file.name)


def undivided(folder: Path) -> str:
    """Why `folder` holds no parts; empty where it does."""
    reason = folder / REASON
    return reason.read_text() if reason.exists() else ""


class Division:
    """Which part the rows of a submission belong to."""

    def __init__(self, folder: Path):
        """folder: which `divide` has filled."""
        self._column, ids = json.loads((folder / IDS).read_text())
        self._last: list[tuple[list[str], dict[str, list[bool]]]] = []
        self._part_of: dict[str | float, str] = {name: part for part, names in ids.items() for name in names}
        numbers = {_number(name): part for name, part in self._part_of.items()}
        if None not in numbers and len(numbers) == len(self._part_of):  # as pandas takes them: 7, 07 and 7.0 are one
            self._part_of |= numbers

    def cut(self, table: Iterable[Rows], folder: Path, name: str) -> None:
        """Write the rows of each part, with the header, to the file `name` in `folder`/validation and `folder`/test.

        What is missing or doubled there is for the grader to refuse.

        Raises:
            Unknown: the table has no ids, or one that no answer has.
        """
        batches = iter(table)
        (header, *first), (title, *first_texts) = next(batches, ([()], [""]))
        columns = [cell.removeprefix("\ufeff") for cell in header]
        if self._column not in columns:
            raise Unknown(f"column {self._column!r} is missing")
        place = columns.index(self._column)
        lines = {VALIDATION: [title], TEST: [title]}
        for number, (cells, texts) in enumerate(itertools.chain([(first, first_texts)], batches)):
            for part, chosen in self._chosen(number, cells, place).items():
                lines[part] += itertools.compress(texts, chosen)
        for part, of_part in lines.items():
            (folder / part).mkdir(exist_ok=True)
            with (folder / part / name).open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                file.writelines(of_part)

    def _chosen(self, number: int, cells: Sequence[Sequence[str]], place: int) -> Mapping[str, Sequence[bool]]:
        """Which of these rows, the `number`th of a table, are in each part. Tables mostly keep an order."""
        names = [row[place] if len(row) > place else "" for row in cells]
        if number < len(self._last) and self._last[number][0] == names:
            return self._last[number][1]
        parts = [self._part_of.get(name) for name in names]
        known = None not in parts
        if not known:
            parts = [part or self._part(row, place) for part, row in zip(parts, cells, strict=True)]
        chosen = {name: [part == name for part in parts] for name in (VALIDATION, TEST)}
        if known and number < REMEMBERED:
            self._last[number:] = [(names, chosen)]
        return chosen

    def _part(self, row: Sequence[str], place: int) -> str | None:
        """Of a row whose id is not written as in the answers; None of an empty row."""
        if part := self._part_of.get(_number(row[place])) if len(row) > place else None:
            return part
        if len(row) > 1 or "".join(row).strip():
            raise Unknown("the ids must be those of test.csv")
        return None


def opened(file: Path) -> TextIO:
    """For `read`: whatever the bytes, they are written again as they were."""
    return file.open(encoding="utf-8", errors="surrogateescape", newline="")


def read(file: TextIO) -> Iterator[Rows]:
    """The rows of a CSV table, `AT_ONCE` at a time, which is quicker than each by itself. Raises csv.Error."""
    lines, kept = itertools.tee(file)
    rows = csv.reader(lines)
    before = 0
    while cells := list(itertools.islice(rows, AT_ONCE)):
        texts = list(itertools.islice(kept, rows.line_num - before))
        before = rows.line_num
        yield cells, texts if len(texts) == len(cells) else list(_joined(texts))


def _joined(lines: Sequence[str]) -> Iterator[str]:
    """The text of each row, of which some have several lines."""
    rows, before = csv.reader(lines), 0
    for _ in rows:
        yield "".join(lines[before : rows.line_num])
        before = rows.line_num


def _answers(scripts: Path, env: Path) -> tuple[Path, str, list[str], list[str]]:
    """The file of answers, the name of its column of ids, the ids, and the answers to divide evenly.

    Raises:
        Indivisible: there is no such file, or no such ids.
    """
    files = sorted(scripts.glob("*.csv"))
    own = scripts / "answers.csv"
    if own not in files and len(files) != 1:
        raise Indivisible("scripts/ has no answers.csv, nor another CSV file alone")
    file = own if own in files else files[0]
    with opened(file) as text:
        header, *rows = [row for cells, _ in read(text) for row in cells if row] or [[]]
    if any(len(cells) != len(header) for cells in rows) or len(set(header)) < max(2, len(header)):
        raise Indivisible(f"scripts/{file.name} is no table of ids and answers")
    if len(rows) < FEWEST:
        raise Indivisible(f"its {len(rows)} answers are too few for two parts: {FEWEST} are needed")
    of_column = {name: [cells[place] for cells in rows] for place, name in enumerate(header)}
    distinct = [name for name, cells in of_column.items() if len(set(cells)) == len(rows)]
    if file == own and "id" in header:  # which is what `envs.grading.read_submission` asks for
        known = [name for name in distinct if name == "id"]
    else:
        known = [name for name in distinct if _shown(name, of_column[name], env)]
    if not known:
        raise Indivisible(f"no column of scripts/{file.name} has ids, each once, that a table in env/ shows")
    ids, others = of_column.pop(known[0]), list(of_column)
    return file, known[0], ids, of_column["target" if "target" in others else others[-1]]


def _shown(column: str, ids: Sequence[str], env: Path) -> bool:
    """Whether a script finds these ids in a table under that name, so that submissions can have them; the least table
    is asked first, which the example of a submission often is."""
    for file in sorted(env.rglob("*.csv"), key=lambda path: path.stat().st_size):
        with opened(file) as text:
            rows = (row for cells, _ in read(text) for row in cells)
            header = next(rows, ())
            if column in header:
                place = header.index(column)
                if set(ids) <= {row[place] for row in rows if len(row) > place}:
                    return True
    return False


def _drawn(targets: Sequence[str], seed: bytes) -> np.ndarray:
    """int [n], 0 or 1: rows in a random order are sorted by their targets, and one of each two neighbours is drawn, so
    that classes and quantiles have the same share in both halves."""
    rng = np.random.default_rng(list(seed))
    numbers = pd.to_numeric(pd.Series(targets), errors="coerce")
    keys = np.array(targets) if numbers.isna().any() else numbers.to_numpy()
    shuffled = rng.permutation(len(targets))
    order = shuffled[np.argsort(keys[shuffled], kind="stable")]
    first = rng.integers(2, size=math.ceil(len(order) / 2))
    drawn = np.empty(len(order), int)
    drawn[order] = np.stack([first, 1 - first], axis=1).ravel()[: len(order)]
    return drawn


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def sizes(folder: Path) -> Mapping[str, int]:
    """Answers in each part."""
    return {name: len(ids) for name, ids in json.loads((folder / IDS).read_text())[1].items()}
