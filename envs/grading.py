"""Grading: the host reads `submission.csv` and computes the metric itself; nothing that a script prints counts.

Invariants: the submission is opened without following links and only if it is a regular file of bounded size; the
grader sees a private copy; a submission that cannot be scored is a `GradeError`, whose reason reveals no answer.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import math
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from envs.benchmarks.loader import TaskError
from envs.records import Task

SUBMISSION = "submission.csv"
MAX_BYTES = 50 << 20


class GradeError(ValueError):
    """A submission that gets no score; the message tells its author why."""


def grade(task: Task, workspace: Path) -> float:
    """The task's metric of the submission in `workspace`, from the task's own `scripts/eval.py`.

    Raises:
        GradeError: there is no submission, or the grader refuses it, or its score is not finite.
        TaskError: the grader itself does not load.
    """
    get_score = _grader(task.private_dir / "eval.py")
    content = _read_untrusted(workspace / SUBMISSION)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / SUBMISSION).write_bytes(content)
        try:
            score = float(get_score(folder))
        except Exception as error:  # the submission is untrusted: what it breaks in the grader is its own fault
            reason = error if isinstance(error, GradeError) else f"{type(error).__name__}: {error}"
            raise GradeError(f"{SUBMISSION} was refused: {reason}") from error
    if not math.isfinite(score):
        raise GradeError(f"{SUBMISSION} was refused: its {task.metric} is {score}")
    return score


def medal(task: Task, score: float) -> str | None:
    """The best medal that the score earns; None if it earns none."""
    sign = task.direction.sign
    return next((name for name, needed in task.medals if sign * score >= sign * needed), None)


def read_submission(folder: str | Path, answers: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """For a task's eval.py: the submission's `columns`, one row per answer, in the order of the answers' `id`.

    Raises:
        GradeError: a missing column, missing, repeated or unknown ids, or a value that is missing or infinite.
    """
    try:
        submission = pd.read_csv(Path(folder) / SUBMISSION)
    except (ValueError, UnicodeDecodeError) as error:
        raise GradeError(f"not a CSV table ({error})") from error
    if absent := [name for name in ["id", *columns] if name not in submission]:
        raise GradeError(f"column {absent[0]!r} is missing; needed are id, {', '.join(columns)}")
    if submission["id"].duplicated().any():
        raise GradeError("an id occurs twice")
    if len(submission) != len(answers) or not submission["id"].isin(answers["id"]).all():
        raise GradeError(f"the ids must be the {len(answers)} of test.csv")
    aligned = submission.set_index("id").loc[answers["id"], list(columns)]
    numbers = aligned.select_dtypes("number")
    if aligned.isna().any(axis=None) or not np.isfinite(numbers.to_numpy(dtype=float)).all():
        raise GradeError("a prediction is missing or not finite")
    return aligned.reset_index()


def _read_untrusted(file: Path) -> bytes:
    """Content of a file that untrusted code left: a regular file of at most `MAX_BYTES`, never a link or a pipe."""
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
        with open(descriptor, "rb", closefd=False) as opened:
            return opened.read(MAX_BYTES)
    finally:
        os.close(descriptor)


@functools.cache
def _grader(file: Path) -> Callable[[str], float]:
    name = f"mlagent_eval_{hashlib.sha256(bytes(file)).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, file)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
        return module.get_score
    except Exception as error:
        raise TaskError(f"{file} does not load ({type(error).__name__}: {error}): it must define get_score") from error
