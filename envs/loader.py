"""Loads a task folder in MLAgentBench's format, preparing a copy of it once.

    NAME/env/train.py, task_descriptor.txt       what the agent sees, with the data that prepare.py adds
    NAME/scripts/research_problem.txt, eval.py   eval.get_score(submission_folder) -> float
    NAME/scripts/prepare.py                      optional; run once in scripts/, writes data to ../env, answers here
    NAME/scripts/read_only_files.txt             optional; globs of files in env/ that the agent may not change
    NAME/task.yaml                               ours: metric, direction, split, best, limits, origin and licence

Invariants: the given folder is never written to; a prepared copy is complete or absent, named by the content it was
made from, and made once however many processes ask; answers stay in scripts/, which no sandbox sees.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from envs.records import Direction, Limits, Task

BUILTIN = Path(__file__).parent / "tasks"
SPLITS = ("held_in", "held_out")


class TaskError(ValueError):
    """A task that cannot be used; the message names the file and what to do."""


@dataclass
class TaskFile:
    """The keys of task.yaml."""

    metric: str
    """Name of the metric that eval.py computes."""
    direction: Direction
    """`maximize` or `minimize`."""
    best: float
    """Score of a strong solution."""
    best_from: str
    """How `best` was obtained."""
    origin: str
    """Where the data comes from."""
    licence: str
    """Licence of the data."""
    script: str = "train.py"
    split: str = "held_in"
    limits: Limits = field(default_factory=Limits)


def builtin_tasks() -> list[str]:
    """Names of the tasks that come with the project."""
    return sorted(folder.name for folder in BUILTIN.iterdir() if (folder / "task.yaml").exists())


def load(name_or_folder: str | Path) -> Task:
    """The prepared task of that name or folder.

    Raises:
        TaskError: there is no such task, a file is missing or wrong, or prepare.py fails.
    """
    source = _find(name_or_folder)
    about = _about(source / "task.yaml")
    for needed in (f"env/{about.script}", "scripts/research_problem.txt", "scripts/eval.py"):
        if not (source / needed).is_file():
            raise TaskError(f"task {source.name}: {source / needed} is missing; envs/README.md shows the folder's format")
    prepared = _prepare(source)
    env = prepared / "env"
    present = [str(path.relative_to(env)) for path in env.rglob("*") if path.is_file()]
    protected = prepared / "scripts" / "read_only_files.txt"
    globs = protected.read_text().split() if protected.exists() else []
    return Task(
        id=source.name,
        problem=(prepared / "scripts" / "research_problem.txt").read_text().strip(),
        env_dir=env,
        private_dir=prepared / "scripts",
        script=about.script,
        read_only=frozenset(name for name in present if name != about.script or _matches(name, globs)),
        metric=about.metric,
        direction=about.direction,
        split=about.split,
        limits=about.limits,
        m_best=about.best,
    )


def _find(name_or_folder: str | Path) -> Path:
    for folder in (BUILTIN / str(name_or_folder), Path(name_or_folder)):
        if folder.is_dir():
            return folder.resolve()
    near = difflib.get_close_matches(str(name_or_folder), builtin_tasks(), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise TaskError(f"there is no task {name_or_folder!s}: {hint}known are {', '.join(builtin_tasks())}, or give a folder")


def _about(file: Path) -> TaskFile:
    if not file.is_file():
        raise TaskError(f"{file} is missing: it states metric, direction, best, best_from, origin and licence")
    try:
        given = OmegaConf.load(file)
        known = {item.name for item in fields(TaskFile)}
        for key in given:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                raise TaskError(f"{file}: unknown key {key!r}" + (f"; did you mean {near[0]}?" if near else ""))
        if "direction" in given:
            given.direction = str(given.direction).upper()
        about: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TaskFile), given))
    except (OmegaConfBaseException, ValueError, OSError) as error:
        if isinstance(error, TaskError):
            raise
        raise TaskError(f"{file}: {str(error).splitlines()[0]}") from error
    if about.split not in SPLITS:
        raise TaskError(f"{file}: split must be one of {', '.join(SPLITS)}, not {about.split!r}")
    return about


def _prepare(source: Path) -> Path:
    """The prepared copy of `source` in the cache."""
    digest = hashlib.sha256()
    for path in sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(f"{path.relative_to(source)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    cache = Path(os.environ.get("MLAGENT_CACHE", Path.home() / ".cache" / "mlagent")) / "tasks"
    prepared = cache / f"{source.name}-{digest.hexdigest()[:16]}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{prepared}.lock"):
        if not prepared.exists():
            partial = prepared.with_name(f".{prepared.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(source, partial, ignore=shutil.ignore_patterns("__pycache__"))
            if (partial / "scripts" / "prepare.py").exists():
                _run_prepare(source.name, partial / "scripts")
            for path in [partial / "env", *(partial / "env").rglob("*")]:  # experiments run as another user
                path.chmod(0o755 if path.is_dir() else 0o644)
            partial.rename(prepared)
    return prepared


def _run_prepare(name: str, scripts: Path) -> None:
    project = {"PYTHONPATH": str(Path(__file__).parent.parent)}  # prepare.py may use envs.splits
    done = subprocess.run(
        [sys.executable, "prepare.py"], cwd=scripts, env={**os.environ, **project}, capture_output=True, text=True
    )
    if done.returncode:
        raise TaskError(f"task {name}: scripts/prepare.py failed:\n{(done.stdout + done.stderr)[-2000:]}")


def _matches(name: str, globs: list[str]) -> bool:
    return any(fnmatch.fnmatch(name, glob.removeprefix("./")) for glob in globs)
