"""`python -m envs.exported SUBMISSIONS TASK LOGS`: the tests of a task that was written in Harbor's format.

It is copied there with this package (`envs.harbor_export`), and needs numpy, pandas and scikit-learn only. TASK holds
the task's figures and graders, SUBMISSIONS the submission.csv to grade, and LOGS gets reward.json: `reward`, as the
task's policies are rewarded for an edit of the unchanged script, `score` on the validation part of the answers, and
`test_score` on the test part where there is one. Invariants: the reward of a failure stands there before a grader is
loaded, so that it counts whatever a submission does to one; nothing that lies beside the submission is imported.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from envs import grader, grader_process
from envs.grading import GradeError, open_untrusted
from envs.parts import TEST, VALIDATION, Division
from envs.records import Direction, Durations, Limits, Outcome, State, StepResult, Task
from reward import Terms, reward

FIGURES = "task.json"
SECONDS = 60


def main(arguments: Sequence[str]) -> None:
    submissions, folder, logs = map(Path, arguments)
    figures = json.loads((folder / FIGURES).read_text())
    task = _task(folder, figures)
    failed = StepResult("edit", Outcome.SCRIPT_ERROR, task.m_init, None, "", "", Durations(), State("", task.id, ""))
    terms = Terms(**figures["reward"])
    _write(logs, {"reward": reward(failed, task, terms).value})
    try:
        scores = _scores(task, submissions)
    except GradeError as reason:
        print(reason)
        return
    score = scores.get(VALIDATION, scores.get(grader_process.ALL))
    graded = replace(failed, outcome=Outcome.EDITED, score_after=score, best_before=task.m_init)
    tested = {"test_score": scores[TEST]} if TEST in scores else {}
    _write(logs, {"reward": reward(graded, task, terms).value, "score": score, **tested})


def _task(folder: Path, figures: Mapping[str, Any]) -> Task:
    parts = folder if (folder / VALIDATION).is_dir() else None
    return Task(
        figures["id"], "", folder / "env", folder / "scripts", figures["script"], frozenset(), figures["metric"],
        Direction(figures["direction"]), figures["split"], Limits(**figures["limits"]), figures["m_best"],
        figures["m_init"], medals=tuple(map(tuple, figures["medals"])), parts=parts,
    )  # fmt: skip


def _scores(task: Task, submissions: Path) -> Mapping[str, float]:
    """By what the task's graders see of the answers. Raises GradeError."""
    opened = open_untrusted(submissions / grader.SUBMISSION)
    with open(opened, "rb") as submission:
        content = submission.read()
    graders = {name: grader.load(file) for name, file in grader_process.graders(task).items()}
    with tempfile.TemporaryDirectory() as folder:
        here = os.getcwd()
        division = Division(task.parts) if task.parts else None
        answer = grader.grade(graders, division, content, Path(folder), SECONDS)
        os.chdir(here)
    if reason := answer.get("refused") or answer.get("failed"):
        raise GradeError(reason)
    if wrong := [score for score in answer["scores"].values() if not math.isfinite(score)]:
        raise GradeError(f"its {task.metric} is {wrong[0]}")
    return answer["scores"]


def _write(logs: Path, rewards: Mapping[str, float]) -> None:
    (logs / "reward.json").write_text(json.dumps(rewards))


if __name__ == "__main__":
    main(sys.argv[1:])
