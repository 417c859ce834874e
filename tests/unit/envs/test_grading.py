"""Grading: only a complete, finite, regular submission gets a score, and refusals reveal no answer."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from envs import grading
from envs.benchmarks.loader import TaskError
from envs.grading import GradeError, grade, read_submission
from envs.records import Direction, Limits, Task

GRADER = """
from dataclasses import dataclass
from pathlib import Path
import pandas as pd
from envs.grading import read_submission

@dataclass
class Part:
    weight: "float"

def get_score(folder):
    answers = pd.read_csv(Path(__file__).parent / "answers.csv")
    return float((read_submission(folder, answers, ["y"])["y"] == answers["y"]).mean())
"""


@pytest.fixture
def task(tmp_path: Path) -> Task:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "eval.py").write_text(GRADER)
    (scripts / "answers.csv").write_text("id,y\n7,71\n8,82\n9,93\n")
    (tmp_path / "workspace").mkdir()
    return Task(
        "toy", "", tmp_path / "env", scripts, "train.py", frozenset(), "accuracy", Direction.MAXIMIZE, "held_in",
        Limits(), 1.0,
    )  # fmt: skip


def graded(task: Task, content: str) -> float:
    workspace = task.private_dir.parent / "workspace"
    (workspace / "submission.csv").write_text(content)
    return grade(task, workspace)


def test_rows_in_any_order_are_aligned_to_the_answers(task: Task) -> None:
    assert graded(task, "id,y\n7,71\n8,82\n9,93\n") == 1.0
    assert graded(task, "y,id,extra\n93,9,a\n71,7,b\n0,8,c\n") == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not a CSV"),
        ("\x00\xff", "column"),
        ("id,z\n7,1\n8,1\n9,1\n", "column 'y' is missing"),
        ("y\n1\n1\n1\n", "column 'id' is missing"),
        ("id,y\n7,1\n7,1\n9,1\n", "twice"),
        ("id,y\n7,1\n8,1\n", "ids must be"),
        ("id,y\n7,1\n8,1\n10,1\n", "ids must be"),
        ("id,y\n7,1\n8,1\n9,1\n10,1\n", "ids must be"),
        ("id,y\n7,1\n8,\n9,1\n", "missing or not finite"),
        ("id,y\n7,1\n8,inf\n9,1\n", "missing or not finite"),
    ],
)
def test_a_bad_table_is_refused_without_a_word_on_the_answers(task: Task, content: str, reason: str) -> None:
    with pytest.raises(GradeError, match=reason) as refused:
        graded(task, content)
    assert not any(answer in str(refused.value) for answer in ("71", "82", "93"))


def test_only_a_regular_file_of_bounded_size_is_read(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = task.private_dir.parent / "workspace"
    file = workspace / "submission.csv"
    with pytest.raises(GradeError, match="wrote no"):
        grade(task, workspace)
    makers = [
        lambda: file.symlink_to(task.private_dir / "answers.csv"),
        lambda: os.link(task.private_dir / "answers.csv", file),
        lambda: os.mkfifo(file),
    ]
    for make in makers:
        make()
        with pytest.raises(GradeError, match="regular file"):
            grade(task, workspace)
        file.unlink()
    file.mkdir()
    with pytest.raises(GradeError, match="regular file"):
        grade(task, workspace)
    file.rmdir()
    monkeypatch.setattr(grading, "MAX_BYTES", 10)
    with pytest.raises(GradeError, match="at most 10"):
        graded(task, "id,y\n7,71\n8,82\n9,93\n")


def test_a_score_that_is_not_finite_and_a_grader_that_raises_are_refusals(task: Task) -> None:
    for body in ("return float('nan')", "return -float('inf')", "raise KeyError('column')", "return None"):
        (task.private_dir / "eval.py").write_text(f"def get_score(folder):\n    {body}\n")
        grading._grader.cache_clear()
        with pytest.raises(GradeError, match="refused"):
            graded(task, "id,y\n7,1\n")


def test_a_broken_grader_is_the_tasks_fault_not_the_scripts(task: Task) -> None:
    for content in ("def get_score(:", "import a_module_that_is_not_there", "score = 1"):
        (task.private_dir / "eval.py").write_text(content)
        grading._grader.cache_clear()
        with pytest.raises(TaskError, match=r"eval\.py"):
            graded(task, "id,y\n7,1\n")


def test_infinities_written_as_text_do_not_pass(tmp_path: Path) -> None:
    (tmp_path / "submission.csv").write_text("id,y\n1,-Infinity\n2,1e400\n")
    with pytest.raises(GradeError, match="not finite"):
        read_submission(tmp_path, pd.DataFrame({"id": [1, 2], "y": [0.0, 1.0]}), ["y"])
