"""Grades submissions by the graders of published packages (`envs.benchmarks.packages`): imported by a task's eval.py.

It runs where all graders run (`envs.grader`), beside the answers that it may see: all, or a part. Invariant: what a
package refuses is `Invalid`, with its reason; whatever else it raises is the grader's failure.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import json
import os
import runpy
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from envs.benchmarks.competition import ANSWERS

SUBMISSION = "submission.csv"


class Invalid(ValueError):
    """A submission that the package's grader refuses; the message says why."""


class Metric:
    """The class of a metric.py (OpenMLE-Gym, MLE-Dojo) beside eval.py."""

    def __init__(self, grader: str):
        """grader: the file of eval.py, beside which are metric.py and the answers."""
        self._folder = Path(grader).parent
        if (
            "mledojo" not in sys.modules and importlib.util.find_spec("mledojo") is None
        ):  # of which metric.py needs two classes
            sys.modules.update(_bases())
        spec = importlib.util.spec_from_file_location(f"metric_{abs(hash(grader))}", self._folder / "metric.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        own = [one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__ == spec.name]
        (self._class,) = [one for one in own if hasattr(one, "evaluate")]

    def __call__(self, folder: str) -> float:
        """Raises Invalid."""
        metric = self._class()
        try:
            verdict = metric.validate_submission(_read(Path(folder) / SUBMISSION), _read(self._folder / ANSWERS))
        except Exception as reason:  # the published classes raise what they like
            raise Invalid(str(reason)) from reason
        if verdict is False or (isinstance(verdict, tuple) and verdict and verdict[0] is False):
            raise Invalid(str(verdict[1]) if isinstance(verdict, tuple) and len(verdict) > 1 else "it is not valid")
        return float(metric.evaluate(y_true=_read(self._folder / ANSWERS), y_pred=_read(Path(folder) / SUBMISSION)))


class Evaluator:
    """An evaluator.py (SandMLE) beside eval.py, run as its publisher runs it but in this process."""

    def __init__(self, grader: str):
        self._folder = Path(grader).parent

    def __call__(self, folder: str) -> float:
        """Raises Invalid."""
        script, submission = str(self._folder / "evaluator.py"), str(Path(folder) / SUBMISSION)
        said, told = io.StringIO(), io.StringIO()
        with (
            _as_if_called(self._folder, [script, "--submission_path", submission]),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(told),
        ):
            try:
                runpy.run_path(script, run_name="__main__")
            except SystemExit as end:
                if end.code:
                    reason = end.code if isinstance(end.code, str) else f"{told.getvalue()}{said.getvalue()}"
                    raise Invalid(reason.strip() or f"evaluator.py ended with {end.code}") from end
            except Exception as error:  # its publisher takes whatever ends it for a fault of the submission
                raise Invalid(f"{type(error).__name__}: {error}") from error
        found: dict[str, Any] = json.loads(said.getvalue())
        if found.get("score") is None:
            raise Invalid(said.getvalue().strip())
        return float(found["score"])


@contextlib.contextmanager
def _as_if_called(folder: Path, arguments: list[str]) -> Iterator[None]:
    here, given, path = os.getcwd(), sys.argv, list(sys.path)
    os.chdir(folder)
    sys.argv, sys.path[:0] = arguments, [str(folder)]
    try:
        yield
    finally:
        os.chdir(here)
        sys.argv, sys.path[:] = given, path


def _read(file: Path) -> pd.DataFrame:
    """As both publishers read it; anew each time, since metrics change what they are given."""
    return pd.read_csv(file)


def _bases() -> dict[str, types.ModuleType]:
    """`mledojo.metrics.base`, as far as metrics use it, where that package is not installed."""

    class CompetitionMetrics:
        def __init__(self, higher_is_better: bool = True):
            self.higher_is_better = higher_is_better

    class InvalidSubmissionError(Exception):
        pass

    base = types.ModuleType("mledojo.metrics.base")
    base.CompetitionMetrics, base.InvalidSubmissionError = CompetitionMetrics, InvalidSubmissionError  # type: ignore
    return {name: types.ModuleType(name) for name in ("mledojo", "mledojo.metrics")} | {base.__name__: base}
