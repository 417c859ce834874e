"""Loads a task folder in MLAgentBench's format, preparing a copy of it once.

    NAME/env/train.py, task_descriptor.txt       what the agent sees, with the data that prepare.py adds
    NAME/scripts/research_problem.txt, eval.py   eval.get_score(submission_folder) -> float
    NAME/scripts/prepare.py                      optional; run once in scripts/, writes data to ../env, answers here
    NAME/scripts/prepared                        optional; that has been done already, so it is not run
    NAME/scripts/read_only_files.txt             optional; globs of files and folders in env/ that the agent may not
                                                 change: without it, its data files
    NAME/task.yaml, or NAME.yaml beside NAME/    ours: metric, direction, … (envs.benchmarks.task_file)

Invariants: the given folder is never written to; a prepared copy is complete or absent, named by the content it was
made from, and made once however many processes ask; answers stay in scripts/, which no sandbox sees.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

from envs import parts, splits
from envs.benchmarks import links, sources, task_cache, task_file
from envs.benchmarks.content import hashes
from envs.benchmarks.fidelity import subsample
from envs.benchmarks.task_cache import made_once
from envs.benchmarks.task_file import TaskError, TaskFile
from envs.records import Build, Task, Verifier

log = logging.getLogger(__name__)

DATA = tuple(
    f"*.{suffix}"
    for suffix in (
        "csv", "tsv", "jsonl", "parquet", "feather", "npy", "npz", "h5", "hdf5", "arff", "mat", "pkl", "pickle", "db",
        "sqlite", "zip", "gz", "bz2", "xz", "zst", "tar", "7z", "png", "jpg", "jpeg", "gif", "tif", "tiff", "wav",
        "mp3", "flac", "pt", "pth", "bin", "safetensors", "onnx",
    )
)  # fmt: skip
"""What no task's agent may change whose author says nothing of it."""
BUILTIN = Path(__file__).parents[1] / "tasks"
PREPARED = "prepared"
"""File in scripts/ that MLAgentBench's own preparation leaves: what prepare.py writes is there."""
ASKED = "EOFError: EOF when reading a line"


def builtin_tasks() -> list[str]:
    """Names of the tasks that come with the project."""
    return sorted(folder.name for folder in BUILTIN.iterdir() if (folder / "task.yaml").exists())


def about(name_or_folder: str | Path) -> TaskFile:
    """What task.yaml states of the task of that name or folder; nothing is prepared.

    Raises:
        TaskError: there is no such task, or its task.yaml is missing or wrong.
    """
    return task_file.read(_find(name_or_folder))


def load(name_or_folder: str | Path) -> Task:
    """The prepared task of that name or folder; `NAME@0.1` is the task at a fidelity of 0.1, a task of its own.

    Raises:
        TaskError: there is no such task, a file is missing or wrong, or prepare.py fails.
    """
    asked, fidelity = _fidelity(str(name_or_folder))
    source = _find(asked)
    stated = task_file.read(source)
    grader = f"{stated.verifier.tests}/test.sh" if stated.verifier.tests else "eval.py"
    build = [f"scripts/{stated.verifier.build.folder}/Dockerfile"] if stated.verifier.build.folder else []
    for needed in (f"env/{stated.script}", "scripts/research_problem.txt", f"scripts/{grader}", *build):
        if not (source / needed).is_file():
            raise TaskError(f"{source / needed} is missing: docs/tasks.md shows the format of a task folder")
    prepared = source if source.parent == task_cache.folder().resolve() else _prepare(source)
    divided, undivided = _divide(prepared) if stated.parts else (None, "task.yaml states `parts: false`")
    if stated.verifier.tests:
        divided, undivided = None, "its tests grade the whole"
    named = sources.split(asked)
    name = PurePosixPath(named[1]).name if named else source.name
    if undivided:
        log.warning("task %s: its score is of all answers, and there is none on test: %s", name, undivided)
    if fidelity < 1:
        prepared = _reduce(prepared, source, stated.rows, fidelity)
    env = prepared / "env"
    present = [str(path.relative_to(env)) for path in env.rglob("*") if path.is_file()]
    protected = prepared / "scripts" / "read_only_files.txt"
    globs = _text(protected).split("\n") if protected.exists() else DATA
    read_only = frozenset(name for name in present if _matches(name, globs))
    _text(env / stated.script)  # prompts show it, so it must be text, and prepare.py must have left it there
    return Task(
        id=name if fidelity == 1 else f"{name}@{fidelity:g}",
        problem=_text(prepared / "scripts" / "research_problem.txt").strip(),
        env_dir=env,
        private_dir=prepared / "scripts",
        script=stated.script,
        read_only=read_only,
        editable=frozenset(present) - read_only - {stated.script},
        metric=stated.metric,
        direction=stated.direction,
        split=stated.split,
        limits=stated.limits,
        m_best=stated.best,
        actions="mlagentbench" if "mlagentbench" in stated.actions else "native",
        shell="shell" in stated.actions,
        digest=prepared.name,
        rows=tuple(stated.rows),
        medals=tuple(stated.medals.items()),
        fidelity=fidelity,
        parts=divided,
        undivided=undivided,
        verifier=_verifier(stated, prepared),
        keep=tuple(stated.keep),
        keep_mb=stated.keep_mb,
    )


def _verifier(stated: TaskFile, prepared: Path) -> Verifier | None:
    keys = stated.verifier
    if not keys.tests:
        return None
    scripts, made = prepared / "scripts", keys.build
    build = Build(scripts / made.folder, made.seconds, made.workdir) if made.folder else None
    return Verifier(scripts / keys.tests, keys.workdir, keys.seconds, tuple(sorted(keys.env.items())), build)


def limited(task: Task, given: Any) -> Task:
    """The task with other limits of its experiments.

    given: as the section `tasks.limits` of a configuration, in which 0, and of GPUs -1, stands for the task's own.
    """
    chosen = {name: getattr(given, name) for name in asdict(task.limits)}
    changed = {name: value for name, value in chosen.items() if (value >= 0 if name == "gpus" else value > 0)}
    return replace(task, limits=replace(task.limits, **changed))


def _fidelity(asked: str) -> tuple[str, float]:
    """Name and fidelity of `NAME` or `NAME@FIDELITY`."""
    name, at, share = asked.rpartition("@")
    if not at or Path(asked).is_dir():
        return asked, 1.0
    try:
        fidelity = float(share)
    except ValueError as error:
        raise TaskError(f"{asked}: after @ comes a fidelity such as 0.1, not {share!r}") from error
    if not 0 < fidelity <= 1:
        raise TaskError(f"{asked}: the fidelity must be above 0 and at most 1")
    return name, fidelity


def _find(name_or_folder: str | Path) -> Path:
    """The folder of that task; a source may have to make it first."""
    name = str(name_or_folder)
    if named := sources.split(name):
        return sources.folder_of(*named)
    if name in builtin_tasks():
        return BUILTIN / name
    if name and Path(name).is_dir():
        return Path(name).resolve()
    near = difflib.get_close_matches(name, builtin_tasks(), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise TaskError(f"there is no task {name!r}: {hint}Give a folder or one of {', '.join(builtin_tasks())}")


def _prepare(source: Path) -> Path:
    """The prepared copy of `source` in the cache."""
    links.require_own(source)

    def make(partial: Path) -> None:
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns("__pycache__"))
        scripts = partial / "scripts"
        if (scripts / "prepare.py").exists() and not (scripts / PREPARED).exists():
            _run_prepare(source, scripts)
        for path in [partial / "env", *(partial / "env").rglob("*")]:  # experiments run as another user
            if not path.is_symlink():  # which prepare.py made
                path.chmod(0o755 if path.is_dir() else 0o644)

    try:
        return made_once(f"{source.name}-{_content_hash(source)}", make)
    except OSError as error:
        raise TaskError(f"task {source.name}: a file of {source} cannot be read: {error}") from error


def _divide(prepared: Path) -> tuple[Path | None, str]:
    """The parts of a prepared task's answers in the cache, or why there are none."""
    version = hashlib.sha256(Path(parts.__file__).read_bytes()).hexdigest()[:8]
    folder = made_once(
        f"{prepared.name}-parts-{version}",
        lambda partial: parts.divide(prepared / "scripts", prepared / "env", partial),
    )
    reason = parts.undivided(folder)
    return (None if reason else folder), reason


def _reduce(prepared: Path, source: Path, rows: list[str], fidelity: float) -> Path:
    """The prepared task with a share of its rows; files that stay as they are take no more room."""

    def make(partial: Path) -> None:
        shutil.copytree(prepared, partial, copy_function=os.link)
        for name in rows:
            file = partial / "env" / name
            shutil.copy2(prepared / "env" / name, f"{file}.own")
            os.replace(f"{file}.own", file)
            try:
                subsample(file, fidelity)
            except (ValueError, OSError) as error:
                raise TaskError(f"{source / 'task.yaml'}: rows: {name}: {error}") from error

    if not rows:
        raise TaskError(f"{source / 'task.yaml'} names no files as `rows`: without them there is no lower fidelity")
    if missing := [name for name in rows if not (prepared / "env" / name).is_file()]:
        raise TaskError(f"{source / 'task.yaml'}: rows: there is no file env/{missing[0]} once the task is prepared")
    return made_once(f"{prepared.name}@{fidelity:g}", make)


def _content_hash(source: Path) -> str:
    """Hash of a folder's files, and of the module that prepare.py scripts split data with."""
    digest = hashlib.sha256(Path(splits.__file__).read_bytes())
    for name, size, content in hashes(source):
        digest.update(f"{name}\0{size}\0{content}\0".encode())
    return digest.hexdigest()[:16]


def _run_prepare(source: Path, scripts: Path) -> None:
    """Run prepare.py in the copy, able to import `envs.splits`."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    script = source / "scripts" / "prepare.py"
    try:
        done = subprocess.run(
            [sys.executable, "prepare.py"], cwd=scripts, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True,
            errors="replace", timeout=task_cache.DEADLINE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TaskError(f"{script} ran longer than {task_cache.DEADLINE:.0f} s") from error
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:].strip()
        if said.endswith(ASKED):  # by `input`, as scripts of MLAgentBench that download from Kaggle do
            raise TaskError(
                f"{script} asks for input: run it yourself, in its folder, with what it needs, and create the file "
                f"{script.with_name(PREPARED)} when it is done"
            )
        raise TaskError(f"{script} failed; correct it:\n{said}")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{file} is not a readable text file (UTF-8): {error}") from error


def _matches(name: str, globs: Sequence[str]) -> bool:
    """Whether a file, or a folder that it lies in, matches one of the globs."""
    paths = [name, *map(str, PurePosixPath(name).parents[:-1])]
    wanted = [glob.strip().removeprefix("./").rstrip("/") for glob in globs]
    return any(fnmatch.fnmatch(path, glob) for path in paths for glob in wanted if glob)
