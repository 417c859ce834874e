"""Grading: the task's own grader computes the metric from `submission.csv`; nothing that a script prints counts.

Invariants: what counts is the score on the validation part of the answers, and that on the test part is told apart
(`envs.parts`); the submission is opened without following links and only if it is a regular file of bounded size; the
grader sees a private copy, in a process of its own (`envs.grader`), so that no submission and no grader holds up, ends
or moves ours; a submission that cannot be scored is a `GradeError`, whose reason reveals no answer; ids and labels are
what is written, also where a class is called NA, and of a part what they are in all answers.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from envs.grader_process import ALL, GraderProcess
from envs.parts import TEST, VALIDATION
from envs.records import Findings, Task, Withheld

SUBMISSION = "submission.csv"
MAX_BYTES = 50 << 20
MISSING = frozenset({
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
})  # fmt: skip
"""What pandas reads as no value. Here it is one only where no answer is called so."""
WORDS = "words"
"""Of answers, in `attrs`: their `Words`, those of the other part included."""

process = GraderProcess()


class GradeError(ValueError):
    """A submission that gets no score; the message tells its author why."""


class GraderFailed(GradeError):
    """The grader raised or ended instead of refusing: the submission's fault, unless the submission is honest."""


def grade(task: Task, workspace: Path) -> tuple[float, Withheld, Findings]:
    """The task's metric of the submission in `workspace`, from the task's own `scripts/eval.py`, on the validation part
    of the answers, what is withheld, and what is suspicious in the predictions. Where the answers have no parts, both
    scores are of all answers.

    Raises:
        GradeError: there is no submission, or the grader refuses it or fails on it, or its score is not finite.
        TaskError: the grader itself does not load.
        SandboxFailure: the process that runs graders does not start, or was killed.
    """
    submission = open_untrusted(workspace / SUBMISSION)
    try:
        answer = process.ask(task, submission)
    finally:
        os.close(submission)
    if reason := answer.get("failed"):
        raise GraderFailed(f"{SUBMISSION} was refused: {reason}")
    if reason := answer.get("refused"):
        raise GradeError(f"{SUBMISSION} was refused: {reason}")
    scores = answer["scores"]
    for score in scores.values():
        if not math.isfinite(score):
            raise GradeError(f"{SUBMISSION} was refused: its {task.metric} is {score}")
    whole = scores.get(ALL)
    withheld = Withheld(scores.get(TEST, whole), whole if task.medals else None, apart=TEST in scores)
    return scores.get(VALIDATION, whole), withheld, tuple(map(tuple, answer["findings"]))


def medal(task: Task, score: float) -> str | None:
    """The best medal that the score earns; None if it earns none."""
    sign = task.direction.sign
    return next((name for name, needed in task.medals if sign * score >= sign * needed), None)


def read_answers(grader: str | Path, text: Sequence[str] = ()) -> pd.DataFrame:
    """For a task's eval.py, which gives its `__file__`: the answers.csv beside it, with ids and labels as written.

    text: columns that are no numbers, also where they look so.
    """
    file = Path(grader).with_name("answers.csv")
    status = file.stat()
    return _answers(file, tuple(text), status.st_mtime_ns, status.st_size).copy()


@functools.lru_cache(maxsize=4)
def _answers(file: Path, text: tuple[str, ...], *version: int) -> pd.DataFrame:
    """A process grades many submissions by the same answers; version: of the file."""
    other = {VALIDATION: TEST, TEST: VALIDATION}.get(file.parent.name, file.parent.name)
    apart = file.parent.with_name(other) / file.name
    files = [one for one in dict.fromkeys((file, apart)) if one.exists()]
    tables = [_as_written(one, text) for one in files]
    words = {name for table in tables for name in table if not pd.api.types.is_numeric_dtype(table[name])}
    if not pd.concat([table["id"] for table in tables if "id" in table] or [pd.Series()]).is_unique:
        words.add("id")  # 7 and 07 are two
    answers, *others = (_as_written(one, {*text, *words}) for one in files)
    answers.attrs[WORDS] = Words.of([answers, *others])
    return answers


def _as_written(file: Path, text: Iterable[str]) -> pd.DataFrame:
    """text: columns that are no numbers."""
    return pd.read_csv(file, dtype=dict.fromkeys(text, str), keep_default_na=False, low_memory=False)


@dataclass(frozen=True)
class Words:
    """What answers call things."""

    as_missing: frozenset[str]
    """Their ids and labels that pandas would read as no value."""
    numbers: bool
    """There are numbers among their labels."""

    @classmethod
    def of(cls, tables: Iterable[pd.DataFrame]) -> Words:
        columns = [(name, table[name]) for table in tables for name in table]
        texts = [(name, column) for name, column in columns if not pd.api.types.is_numeric_dtype(column)]
        words = [(name, word) for name, column in texts for word in column.unique() if isinstance(word, str)]
        missing = frozenset(word for _, word in words if word in MISSING)
        return cls(missing, any(_is_number(word) for name, word in words if name != "id"))


def read_submission(folder: str | Path, answers: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """For a task's eval.py: the submission's `columns`, one row per answer, in the order of the answers' `id`.

    A column of numbers is read as numbers, unless the answers have numbers among their labels.

    Raises:
        GradeError: a missing column, missing, repeated or unknown ids, or a value that is missing or infinite.
    """
    words = answers.attrs.get(WORDS) or Words.of([answers])
    text = () if pd.api.types.is_numeric_dtype(answers["id"]) else ("id",)
    text += tuple(columns) if words.numbers else ()
    table = _table(Path(folder), text, MISSING - words.as_missing)
    if absent := [name for name in ["id", *columns] if name not in table]:
        raise GradeError(f"column {absent[0]!r} is missing; needed are id, {', '.join(columns)}")
    ids = pd.Index(table["id"])
    if not ids.is_unique:
        raise GradeError("an id occurs twice")
    rows = ids.get_indexer(pd.Index(answers["id"]))
    in_part = _once is not None and Path(folder) != _once.folder  # the other rows are known to be of the other part
    if (rows < 0).any() or not (in_part or len(ids) == len(answers)):
        raise GradeError("the ids must be those of test.csv")  # how many are in a part is not told
    aligned = {name: table[name].array.take(rows) for name in columns}
    if not all(map(_is_whole, aligned.values())):
        raise GradeError("a prediction is missing or not finite")
    return pd.DataFrame({"id": answers["id"].array, **aligned})


@dataclass
class _Once:
    """Tables that were parsed from the submission in `folder`, by what they were parsed with."""

    folder: Path
    tables: dict[tuple[tuple[str, ...], frozenset[str]], pd.DataFrame] = field(default_factory=dict)


_once: _Once | None = None


@contextlib.contextmanager
def parsed_once(folder: Path) -> Iterator[None]:
    """For `envs.grader`: in here the submission in `folder` is parsed once, also for the graders of its parts, which
    lie in folders in there and take their rows of it."""
    global _once
    _once = _Once(folder)
    try:
        yield
    finally:
        _once = None


def _table(folder: Path, text: tuple[str, ...], missing: frozenset[str]) -> pd.DataFrame:
    """text: columns that are no numbers; missing: what stands for no value. Raises GradeError."""
    if _once and folder.is_relative_to(_once.folder):
        if (text, missing) not in _once.tables:
            _once.tables[text, missing] = _parsed(_once.folder, text, missing)
        return _once.tables[text, missing]
    return _parsed(folder, text, missing)


def _parsed(folder: Path, text: tuple[str, ...], missing: frozenset[str]) -> pd.DataFrame:
    try:
        return pd.read_csv(
            folder / SUBMISSION, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=sorted(missing),
            low_memory=False,
        )  # fmt: skip
    except (ValueError, UnicodeDecodeError) as error:
        raise GradeError(f"not a CSV table ({error})") from error


def _is_whole(values: pd.api.extensions.ExtensionArray) -> bool:
    """Whether none is missing or infinite."""
    if pd.api.types.is_numeric_dtype(values.dtype):
        return bool(np.isfinite(values.to_numpy(dtype=float)).all())
    return not values.isna().any()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text not in MISSING


def open_untrusted(file: Path) -> int:
    """Descriptor of a file that untrusted code left: a regular file of at most `MAX_BYTES`, never a link or a pipe."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise GradeError(f"the script wrote no {SUBMISSION}") from error
    except OSError as error:
        raise GradeError(f"{SUBMISSION} is not a regular file") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise GradeError(f"{SUBMISSION} is not a regular file")
        if status.st_size > MAX_BYTES:
            raise GradeError(f"{SUBMISSION} has {status.st_size:,} bytes; at most {MAX_BYTES:,} are read")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
