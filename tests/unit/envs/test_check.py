"""What authors are told of their grader and of their task, found by grading altered copies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from envs import check, experiments
from envs.grading import grade
from envs.records import Direction, Durations, Limits, Outcome, StepResult, Task

AS_WRITTEN = """
from envs.grading import read_answers, read_submission

def get_score(folder):
    answers = read_answers(__file__)
    return float((read_submission(folder, answers, ["kind"])["kind"] == answers["kind"]).mean())
"""
PANDAS_DEFAULT = AS_WRITTEN.replace("read_answers(__file__)", 'pd.read_csv(__file__[:-7] + "answers.csv")').replace(
    "from envs", "import pandas as pd\nfrom envs", 1
)
BY_NAME = AS_WRITTEN.replace("return ", 'assert set(answers["kind"]) <= {"cat", "dog"}\n    return ')
NUMBERS = "id,kind\n1,0\n2,1\n3,1\n"
WORDS = "id,kind\n1,cat\n2,dog\n3,dog\n"


def make(folder: Path, grader: str, answers: str) -> Task:
    (folder / "scripts").mkdir()
    (folder / "scripts/eval.py").write_text(grader)
    (folder / "scripts/answers.csv").write_text(answers)
    (folder / "env").mkdir()
    (folder / "env/train.py").write_text("print(1)\n")
    (folder / "workspace").mkdir()
    (folder / "workspace/submission.csv").write_text(answers.replace("3,dog", "3,cat"))
    return Task(
        "toy", "", folder / "env", folder / "scripts", "train.py", frozenset(), "accuracy", Direction.MAXIMIZE,
        "held_in", Limits(), None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("grader", "answers", "told"),
    [
        (AS_WRITTEN, WORDS, ""),
        (PANDAS_DEFAULT, WORDS, "takes the class 'NA' for a missing value"),
        (PANDAS_DEFAULT, NUMBERS, ""),  # a number has no such name
        (BY_NAME, WORDS, ""),  # and these are the only names that this grader takes
    ],
    ids=["as written", "pandas' default", "numbers", "by name"],
)
def test_a_grader_that_knows_no_class_called_na_is_found(tmp_path: Path, grader: str, answers: str, told: str) -> None:
    task = make(tmp_path, grader, answers)
    before = (task.private_dir / "answers.csv").read_text()
    table = pd.read_csv(tmp_path / "workspace/submission.csv", dtype=str, keep_default_na=False)
    problems = list(check._of_labels(task, table, grade(task, tmp_path / "workspace")[0]))
    assert len(problems) == bool(told) and all(told in problem for problem in problems)
    assert (task.private_dir / "answers.csv").read_text() == before


def test_a_grader_that_fails_on_the_unchanged_scripts_submission_is_the_tasks_fault(tmp_path: Path) -> None:
    task = make(tmp_path, "def get_score(folder):\n    raise SystemExit\n", WORDS)
    for files, blamed in (({"train.py": "print(1)\n"}, True), ({"train.py": "print(2)\n"}, False), ({}, True)):
        outcome, score, _, _, log = experiments._graded(task, files, tmp_path / "workspace", "log")
        assert (outcome, score) == (Outcome.SCRIPT_ERROR, None) and log.startswith("log\nsubmission.csv was refused")
        assert ("the task's fault" in log) == blamed
    (tmp_path / "workspace/submission.csv").unlink()
    assert "the task's fault" not in experiments._graded(task, {}, tmp_path / "workspace", "")[3]


def test_answers_of_one_class_and_one_called_na_that_the_agent_could_read_are_found(tmp_path: Path) -> None:
    task = make(tmp_path, AS_WRITTEN, "id,kind\n1,cat\n2,NA\n3,cat\n")
    (task.env_dir / "seen.csv").write_text("id,kind\n1,cat\n2,NA\n3,cat\n9,dog\n")
    (problem,) = check._of_the_folder(task)
    assert problem.startswith("env/seen.csv has the column 'kind' of scripts/answers.csv")


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        (
            "id,x,kind\n1,5,cat\n2,6,dog\n3,7,dog\n",
            "env/seen.csv has the column 'kind' of scripts/",
        ),
        (
            "id,x,label\n3,7,dog\n1,5,cat\n2,6,dog\n",
            "env/seen.csv has in its column 'label' the 'kind'",
        ),
        (
            "x,label\n5,cat\n6,dog\n7,dog\n",
            "env/seen.csv has in its column 'label' the 'kind'",
        ),
        ("id,x,label\n1,5,dog\n2,6,dog\n3,7,cat\n", ""),
        ("id,kind\n7,cat\n8,dog\n", ""),  # of other rows, as train.csv has them
    ],
    ids=["the same name", "another name", "without ids", "other values", "other rows"],
)
def test_answers_that_the_agent_could_read_are_found_under_any_name(tmp_path: Path, shown: str, told: str) -> None:
    task = make(tmp_path, AS_WRITTEN, WORDS)
    (task.env_dir / "seen.csv").write_text(shown)
    problems = list(check._of_the_folder(task))
    assert len(problems) == bool(told) and all(problem.startswith(told) for problem in problems)


MISSPELT = {"acuracy": "did you mean 'accuracy'?", "Pearsn": "did you mean 'pearson'?"}


@pytest.mark.parametrize("metric", [*MISSPELT, "macro F1", "MASE", "my own score"])
def test_a_misspelt_metric_is_asked_about_and_an_unknown_one_is_not(tmp_path: Path, metric: str) -> None:
    task, told = replace(make(tmp_path, AS_WRITTEN, WORDS), metric=metric), MISSPELT.get(metric, "")
    run = StepResult("edit", Outcome.EDITED, None, 0.5, "", "", Durations(), None)
    problems = list(check._of_the_metric(task, run))
    assert len(problems) == bool(told) and all(told in problem for problem in problems)


def test_a_description_that_disagrees_with_the_files_is_found(tmp_path: Path) -> None:
    task = make(tmp_path, AS_WRITTEN, WORDS)
    about = task.env_dir / "task_descriptor.txt"
    assert next(check._of_the_descriptor(task)).startswith("env/task_descriptor.txt is missing")
    (task.env_dir / "train.csv").write_text("id\n1\n")
    (task.env_dir / "parts").mkdir()
    (task.env_dir / "parts/a.csv").write_text("id\n1\n")
    about.write_text("train.csv and parts/a.csv hold rows, scans/*.csv more. Write submission.csv.")
    assert list(check._of_the_descriptor(task)) == []
    about.write_text("test.csv has the rows to predict.")
    assert [problem.partition(":")[0] for problem in check._of_the_descriptor(task)] == [
        "env/task_descriptor.txt names test.csv, which is not in env/",
        "env/task_descriptor.txt says nothing of env/train.csv",
    ]
    about.write_text("Rows of pets.")
    assert list(check._of_the_descriptor(task)) == [], "what names no file is no list of them"
