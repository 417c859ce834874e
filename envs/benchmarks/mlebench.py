"""MLE-bench (arXiv 2410.07095): `mlebench:COMPETITION` is a task, with the data that `mlebench prepare` made.

The package gives description, grader and leaderboard; prepared data is looked for in MLEBENCH_DATA, or where the
package keeps it. What the agent starts from is the sample submission: a competition has no script of its own. The
leaderboard says which way is better, what the medals take, and the best score known. Invariant: the answers in
the competition's private folder are read on the host only, by its own grader.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from envs.benchmarks.task_cache import made_once
from envs.benchmarks.task_file import TaskError
from envs.records import Direction, Limits

DATA_VARIABLE = "MLEBENCH_DATA"
INSTALL = "pip install git+https://github.com/openai/mle-bench"
LIMITS = Limits(seconds=3600.0, cpus=2.0, memory_mb=8192, disk_mb=16384)
ANSWERS = "answers.csv"
MEDALS = ("gold", "silver", "bronze")
SCRIPT = """import pandas as pd

# The sample submission, as it is: replace it by the predictions of a model.
pd.read_csv({sample!r}).to_csv("submission.csv", index=False)
"""
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
    for needed in (competition.public_dir, competition.answers, competition.sample_submission):
        if not needed.exists():
            raise TaskError(f"mlebench:{name}: {needed} is missing: run `mlebench prepare -c {competition.id}` first")

    def make(folder: Path) -> None:
        shutil.copytree(competition.public_dir, folder / "env", copy_function=_link_or_copy)
        sample = str(competition.sample_submission.relative_to(competition.public_dir))
        files = {
            "env/train.py": SCRIPT.format(sample=sample),
            "scripts/research_problem.txt": competition.description,
            "scripts/eval.py": GRADER.format(competition=competition.id, data=str(_data_dir(competition))),
            "task.yaml": yaml.safe_dump(_stated(competition), sort_keys=False),
        }
        for file, text in files.items():
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(text, encoding="utf-8")
        if competition.answers.suffix == ".csv":  # what the grader reads, so that it can be given a part of it
            shutil.copyfile(competition.answers, folder / "scripts" / ANSWERS)
        for path in (folder / "env", *(folder / "env").rglob("*")):
            if path.is_dir():
                path.chmod(0o755)

    return made_once(f"{competition.id}-{_hash(competition)}", make)


def score(competition_id: str, data: str, submission_folder: str, grader: str) -> float:
    """The competition's own score of `submission.csv` in a folder; what its grader refuses, it raises.

    grader: the file of eval.py, beside which are its answers, unless they are no table.
    """
    from mlebench.utils import load_answers, read_csv

    competition, beside = _competition(competition_id, data), Path(grader).with_name(ANSWERS)
    submission = read_csv(Path(submission_folder) / "submission.csv")
    answers = load_answers(beside if beside.exists() else competition.answers)
    return competition.grader.grade_fn(submission, answers)


def _competition(competition_id: str, data: str | None) -> Any:
    try:
        from mlebench.registry import registry
    except ImportError as error:
        raise TaskError(f"mlebench:{competition_id} needs the package mlebench ({error}): {INSTALL}") from error
    known = registry.list_competition_ids()
    if competition_id not in known:
        raise TaskError(f"mlebench has no competition {competition_id!r}: choose one of {', '.join(known)}")
    return (registry.set_data_dir(Path(data)) if data else registry).get_competition(competition_id)


def _stated(competition: Any) -> dict[str, Any]:
    """The content of task.yaml."""
    leaderboard = pd.read_csv(competition.leaderboard)
    if "score" not in leaderboard:
        raise TaskError(f"{competition.leaderboard} has no column `score`: fetch it with `git lfs pull`")
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
        "limits": {name: getattr(LIMITS, name) for name in ("seconds", "cpus", "memory_mb", "disk_mb")},
    }


def _hash(competition: Any) -> str:
    """Of all that the folder is made from; of the data, names and sizes and times."""
    digest = hashlib.sha256(Path(__file__).read_bytes() + competition.description.encode())
    digest.update(competition.leaderboard.read_bytes())
    for path in (competition.answers, *sorted(competition.public_dir.rglob("*"))):
        about = path.stat()
        digest.update(
            f"{os.path.relpath(path, competition.public_dir)}\0{about.st_size}\0{about.st_mtime_ns}\0".encode()
        )
    return digest.hexdigest()[:16]


def _data_dir(competition: Any) -> Path:
    return competition.public_dir.parents[2]


def _link_or_copy(source: str, target: str) -> None:
    """A link where experiments, which run as another user, may read the file, and where it is on the same disk."""
    try:
        if os.stat(source).st_mode & stat.S_IROTH:
            os.link(source, target)
            return
    except OSError:  # another disk
        pass
    shutil.copyfile(source, target)
    os.chmod(target, 0o644)
