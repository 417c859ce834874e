"""A plain script of the user's as a task: its folder is copied, and its score is what it prints.

For training only a host-side grader counts; here the user watches, and a line such as `accuracy: 0.91` is enough.
Invariants: the user's files are never written to; no metric that is not a finite number becomes a score.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from envs.benchmarks.loader import TaskError
from envs.experiments import SandboxRunner
from envs.records import Direction, Experiment, Limits, Outcome, Task

LEFT_OUT = (".*", "__pycache__", "venv", "node_modules", "solved")
MAX_BYTES = 2 << 30
SMALLER_IS_BETTER = re.compile(r"loss|error|rmse|mae|mse|rmsle|mape|perplexity", re.I)
GRADER = "def get_score(folder):\n    raise ValueError('the score is what the script prints')\n"
NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"


def as_task(script: Path, metric: str, direction: str, about: str, seconds: float, memory_mb: int, copy: Path) -> Task:
    """The task of improving `script`, with its folder copied into `copy`.

    metric: as the script prints it; direction: `maximize`, `minimize`, or empty to go by the metric's name; about: what
    the agent is told of the script.

    Raises:
        TaskError: the folder is too large to be copied, or the script cannot be read.
    """
    folder = script.resolve().parent
    files = [path for path in folder.rglob("*") if path.is_file() and not _left_out(path.relative_to(folder))]
    size = sum(path.stat().st_size for path in files)
    if size > MAX_BYTES:
        raise TaskError(
            f"{folder} holds {size >> 20:,} MiB, and all of it would be copied for the sandbox (at most "
            f"{MAX_BYTES >> 20:,}): move {script.name} and the data that it reads to a folder of their own"
        )
    env, grader = copy / "env", copy / "scripts" / "eval.py"
    grader.parent.mkdir(parents=True)
    grader.write_text(GRADER)
    for path in files:
        target = env / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for path in [env, *env.rglob("*")]:  # experiments run as another user
        path.chmod(0o755 if path.is_dir() else 0o644)
    try:
        (env / script.name).read_text()
    except UnicodeDecodeError as error:
        raise TaskError(f"{script} is not a text file (UTF-8): {error}") from error
    way = direction or ("minimize" if SMALLER_IS_BETTER.search(metric) else "maximize")
    return Task(
        id=script.stem,
        problem=about or f"Improve the {metric} that {script.name} prints. Keep the line that prints it.",
        env_dir=env,
        private_dir=grader.parent,
        script=script.name,
        read_only=frozenset(str(path.relative_to(folder)) for path in files) - {script.name},
        metric=metric,
        direction=Direction(way),
        split="held_out",
        limits=Limits(seconds=seconds, memory_mb=memory_mb, disk_mb=1024),
        m_best=None,
    )


def _left_out(path: Path) -> bool:
    return any(Path(part).match(pattern) for part in path.parts for pattern in LEFT_OUT)


class PrintedScoreRunner(SandboxRunner):
    """Runs scripts whose score is the last value of the task's metric that they print."""

    def run(self, task: Task, files: Mapping[str, str]) -> Experiment:
        done = super().run(task, files)
        if not done.finished:
            return done
        log = done.log.rpartition("\n")[0]  # what the grader of submissions said
        score = printed_score(log, task.metric)
        if score is None:
            missing = f"{log}\nit printed no line like `{task.metric}: 0.9`"
            return replace(done, outcome=Outcome.SCRIPT_ERROR, score=None, log=missing)
        return replace(done, outcome=Outcome.EDITED, score=score, log=log)


def printed_score(log: str, metric: str) -> float | None:
    """The last finite number that follows the metric's name and a colon, an equals sign or blanks."""
    found = re.findall(rf"(?<!\w){re.escape(metric)}\s*[:=]?\s*{NUMBER}(?![\w.])", log, re.IGNORECASE)
    scores = [float(text) for text in found if math.isfinite(float(text))]
    return scores[-1] if scores else None
