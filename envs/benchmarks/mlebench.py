"""MLE-bench (arXiv 2410.07095): `mlebench:COMPETITION` is a task, with the data that `mlebench prepare` made.

The package gives description, grader and leaderboard; prepared data is looked for in MLEBENCH_DATA, or where the
package keeps it. What the agent starts from is the sample submission: a competition has no script of its own. The
leaderboard says which way is better, what the medals take, and the best score known. Invariant: the answers in
the competition's private folder are read on the host only, by its own grader.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from envs.benchmarks import links
from envs.benchmarks.competition import ANSWERS, digest, write
from envs.benchmarks.content import files
from envs.benchmarks.task_cache import made_once
from envs.benchmarks.task_file import TaskError
from envs.parts import TEST, VALIDATION
from envs.records import Direction, Limits

DATA_VARIABLE = "MLEBENCH_DATA"
INSTALL = "pip install git+https://github.com/openai/mle-bench"
LIMITS = Limits(seconds=3600.0, cpus=2.0, memory_mb=8192, disk_mb=16384)
OFFICIAL_DECIMALS = 5
MEDALS = ("gold", "silver", "bronze")
LFS_POINTER = b"version https://git-lfs"
REFUSED = {"tgs-salt-identification-challenge": "its grader calls DataFrame.applymap, which pandas 3 has no longer"}
"""Competitions whose own grader fails with the packages that are pinned here, and why."""
NEED_ALL = {"osic-pulmonary-fibrosis-progression", "rsna-2022-cervical-spine-fracture-detection"}
"""Competitions whose grader takes several rows together, so that answers are not divided by rows."""
GRADER = """from envs.benchmarks.mlebench import score


def get_score(submission_folder):
    return score({competition!r}, {data!r}, submission_folder, __file__)
"""


def task_folder(name: str) -> Path:
    """The competition as a prepared task folder in the cache: a `TaskSource` (envs.benchmarks.sources).

    Raises:
        TaskError: the package is missing, it has no such competition, or its data is not prepared.
    """
    competition = _competition(name, os.environ.get(DATA_VARIABLE))
    if reason := REFUSED.get(competition.id):
        raise TaskError(f"mlebench:{name} cannot be graded here: {reason}")
    for needed in (competition.public_dir, competition.answers, competition.sample_submission):
        if not needed.exists():
            raise TaskError(f"mlebench:{name}: {needed} is missing: run `mlebench prepare -c {competition.id}` first")
    links.require_own(
        _data_dir(competition) / competition.id, competition.public_dir, competition.answers,
        competition.sample_submission,
    )  # fmt: skip

    def make(folder: Path) -> None:
        inside = competition.sample_submission.is_relative_to(competition.public_dir)
        sample = competition.sample_submission
        scripts: dict[str, str | Path] = {
            "research_problem.txt": competition.description,
            "eval.py": GRADER.format(competition=competition.id, data=str(_data_dir(competition))),
        }
        if competition.answers.suffix == ".csv":  # what the grader reads, so that it can be given a part of it
            scripts[ANSWERS] = competition.answers
        name = str(sample.relative_to(competition.public_dir)) if inside else sample.name
        write(folder, competition.public_dir, name, _stated(competition), scripts)
        if not inside:  # five competitions show it in an archive only, and keep the file beside the answers
            shutil.copyfile(sample, folder / "env" / name)
            (folder / "env" / name).chmod(0o644)

    return made_once(f"{competition.id}-{_hash(competition)}", make)


def score(competition_id: str, data: str, submission_folder: str, grader: str) -> float:
    """The competition's own score of `submission.csv` in a folder; what its grader refuses, it raises. On all answers
    it is the official one, rounded, as the package compares it with what medals take.

    grader: the file of eval.py, beside which are its answers, unless they are no table.
    """
    from mlebench.utils import load_answers, read_csv

    competition, beside = _competition(competition_id, data), Path(grader).with_name(ANSWERS)
    submission = read_csv(Path(submission_folder) / "submission.csv")
    answers = load_answers(beside if beside.exists() else competition.answers)
    found = competition.grader.grade_fn(submission, answers)
    return found if Path(grader).parent.name in (VALIDATION, TEST) else round(found, OFFICIAL_DECIMALS)


def _competition(competition_id: str, data: str | None) -> Any:
    try:
        from mlebench.registry import registry
    except ImportError as error:
        raise TaskError(f"mlebench:{competition_id} needs the package mlebench ({error}): {INSTALL}") from error
    known = registry.list_competition_ids()
    if competition_id not in known:
        raise TaskError(f"mlebench has no competition {competition_id!r}: choose one of {', '.join(known)}")
    try:
        return (registry.set_data_dir(Path(data)) if data else registry).get_competition(competition_id)
    except ImportError as error:  # of the modules that its grader and its preparation need
        raise TaskError(
            f"mlebench:{competition_id} needs a package that is not installed ({error}): {INSTALL} installs it, unless "
            "with --no-deps"
        ) from error


def _stated(competition: Any) -> dict[str, Any]:
    """The content of task.yaml."""
    with competition.leaderboard.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise TaskError(
                f"{competition.leaderboard} is a Git LFS pointer, not the leaderboard: install git-lfs, then {INSTALL} "
                "--force-reinstall --no-deps (in a clone: `git lfs pull`)"
            )
    leaderboard = pd.read_csv(competition.leaderboard)
    if "score" not in leaderboard:
        raise TaskError(f"{competition.leaderboard} has no column `score`")
    minimize = competition.grader.is_lower_better(leaderboard)
    thresholds = competition.grader.rank_score(None, leaderboard)
    return {
        "metric": competition.grader.name,
        "direction": str(Direction.MINIMIZE if minimize else Direction.MAXIMIZE),
        "best": float(leaderboard["score"].iloc[0]),
        "best_from": "first of the competition's leaderboard, on all answers",
        "origin": f"Kaggle competition {competition.id}, prepared by MLE-bench",
        "licence": "the rules of the competition",
        "medals": {medal: float(thresholds[f"{medal}_threshold"]) for medal in MEDALS},
        "parts": competition.id not in NEED_ALL,
        "limits": {name: getattr(LIMITS, name) for name in ("seconds", "cpus", "memory_mb", "disk_mb")},
    }


def _hash(competition: Any) -> str:
    data = (competition.answers, competition.sample_submission, *files(competition.public_dir))
    texts = (competition.description, competition.leaderboard.read_bytes())
    return digest(__file__, texts, data, competition.public_dir)


def _data_dir(competition: Any) -> Path:
    return competition.public_dir.parents[2]
