"""A failure that a user can mend ends a command with one line, whichever room it comes from."""

from __future__ import annotations

import ast
import pickle

import pytest

from envs.benchmarks.loader import TaskError
from envs.errors import FAILURES, UserError
from tests.unit.test_imports import TOP, sources

OF_AGENTS = {"GradeError", "InvalidSubmissionError"}
"""Told to the author of a submission, not to the user; the second is a name that packages of tasks import."""


def test_whatever_is_called_an_error_is_for_the_user():
    classes = {
        node.name: {ast.unparse(base) for base in node.bases}
        for top in TOP
        for path in sources(top)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Error", "Failure"))
    }
    for name in classes.keys() - OF_AGENTS - {"UserError"}:
        assert classes[name] & {"UserError", *classes}, f"{name} would end a command with a traceback"


def test_one_that_comes_from_another_process_is_still_one_of_them():
    with pytest.raises(FAILURES, match="no such task"):
        raise pickle.loads(pickle.dumps(TaskError("no such task")))
    assert not issubclass(UserError, OSError | ValueError | RuntimeError), "a broader `except` would swallow it"
