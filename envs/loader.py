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
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path, PurePosixPath
from typing import Any, get_type_hints

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from envs.fidelity import subsample
from envs.records import Direction, Limits, Task

BUILTIN = Path(__file__).parent / "tasks"
SPLITS = ("held_in", "held_out")
PREPARE_SECONDS = 3600.0
"""Deadline of a prepare.py, and of waiting for another process that runs it."""


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
    rows: list[str] = field(default_factory=list)
    """Files in env/ (.csv, .jsonl or .npz) of which a fidelity below 1 keeps a share of the rows."""
    script: str = "train.py"
    split: str = "held_in"
    limits: Limits = field(default_factory=Limits)


def builtin_tasks() -> list[str]:
    """Names of the tasks that come with the project."""
    return sorted(folder.name for folder in BUILTIN.iterdir() if (folder / "task.yaml").exists())


def about(name_or_folder: str | Path) -> TaskFile:
    """What task.yaml states of the task of that name or folder; nothing is prepared.

    Raises:
        TaskError: there is no such task, or its task.yaml is missing or wrong.
    """
    return _read(_find(name_or_folder) / "task.yaml")


def load(name_or_folder: str | Path) -> Task:
    """The prepared task of that name or folder; `NAME@0.1` is the task at a fidelity of 0.1, a task of its own.

    Raises:
        TaskError: there is no such task, a file is missing or wrong, or prepare.py fails.
    """
    asked, fidelity = _fidelity(str(name_or_folder))
    source = _find(asked)
    stated = _read(source / "task.yaml")
    for needed in (f"env/{stated.script}", "scripts/research_problem.txt", "scripts/eval.py"):
        if not (source / needed).is_file():
            raise TaskError(f"{source / needed} is missing: envs/README.md shows the format of a task folder")
    prepared = _prepare(source)
    if fidelity < 1:
        prepared = _reduce(prepared, source, stated.rows, fidelity)
    env = prepared / "env"
    present = [str(path.relative_to(env)) for path in env.rglob("*") if path.is_file()]
    protected = prepared / "scripts" / "read_only_files.txt"
    globs = [line.strip() for line in _text(protected).splitlines()] if protected.exists() else []
    _text(env / stated.script)  # prompts show it, so it must be text, and prepare.py must have left it there
    return Task(
        id=source.name if fidelity == 1 else f"{source.name}@{fidelity:g}",
        problem=_text(prepared / "scripts" / "research_problem.txt").strip(),
        env_dir=env,
        private_dir=prepared / "scripts",
        script=stated.script,
        read_only=frozenset(name for name in present if name != stated.script or _matches(name, globs)),
        metric=stated.metric,
        direction=stated.direction,
        split=stated.split,
        limits=stated.limits,
        m_best=stated.best,
        digest=prepared.name,
        rows=tuple(stated.rows),
        fidelity=fidelity,
    )


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
    name = str(name_or_folder)
    if name in builtin_tasks():
        return BUILTIN / name
    if name and Path(name).is_dir():
        return Path(name).resolve()
    near = difflib.get_close_matches(name, builtin_tasks(), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise TaskError(f"there is no task {name!r}: {hint}Give a folder or one of {', '.join(builtin_tasks())}")


def _read(file: Path) -> TaskFile:
    """The checked content of task.yaml."""
    try:
        given = OmegaConf.load(file)
        if not isinstance(given, DictConfig):
            raise TaskError(f"{file} must be a mapping of keys to values")
        for path, kind in _unknown(given, TaskFile):
            near = difflib.get_close_matches(path.rpartition(".")[2], [item.name for item in fields(kind)], n=1)
            raise TaskError(f"{file}: there is no key {path!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        if missing := [
            item.name
            for item in fields(TaskFile)
            if item.default is item.default_factory is MISSING and item.name not in given
        ]:
            raise TaskError(f"{file}: {', '.join(missing)} missing")
        if given.direction not in list(Direction):
            raise TaskError(f"{file}: direction must be one of {', '.join(Direction)}, not {given.direction!r}")
        given.direction = given.direction.upper()  # OmegaConf knows an enum by its names
        stated: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TaskFile), given))
    except FileNotFoundError as error:
        raise TaskError(f"{file} is missing: envs/README.md shows what it states") from error
    except (OmegaConfBaseException, YAMLError, OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{file}: {' '.join(str(error).split())}") from error
    if wrong := _impossible(stated):
        raise TaskError(f"{file}: {wrong}")
    return stated


def _impossible(stated: TaskFile) -> str | None:
    """What is wrong with values that have the right type; None if nothing is."""
    if stated.split not in SPLITS:
        return f"split must be one of {', '.join(SPLITS)}, not {stated.split!r}"
    if not math.isfinite(stated.best):
        return f"best must be a finite number, not {stated.best}"
    if (script := PurePosixPath(stated.script)).is_absolute() or ".." in script.parts:
        return f"script must be a path inside env/, not {stated.script!r}"
    for name, value in asdict(stated.limits).items():
        if not (value >= 0 if name == "gpus" else 0 < value < math.inf):
            return f"limits.{name} must be {'at least 0' if name == 'gpus' else 'above 0 and finite'}, not {value}"
    return None


def _unknown(given: Mapping[str, Any], kind: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Dotted keys that the dataclass `kind`, which they would belong to, does not have."""
    hints = get_type_hints(kind)
    for key, value in given.items():
        if key not in hints:
            yield f"{prefix}{key}", kind
        elif is_dataclass(hints[key]) and isinstance(value, Mapping):
            yield from _unknown(value, hints[key], f"{prefix}{key}.")


def _prepare(source: Path) -> Path:
    """The prepared copy of `source` in the cache."""

    def make(partial: Path) -> None:
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns("__pycache__"))
        if (partial / "scripts" / "prepare.py").exists():
            _run_prepare(source, partial / "scripts")
        for path in [partial / "env", *(partial / "env").rglob("*")]:  # experiments run as another user
            path.chmod(0o755 if path.is_dir() else 0o644)

    try:
        return _made_once(f"{source.name}-{_content_hash(source)}", make)
    except OSError as error:
        raise TaskError(f"task {source.name}: a file of {source} cannot be read: {error}") from error


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
    return _made_once(f"{prepared.name}@{fidelity:g}", make)


def _made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of that name in the cache; `make` fills it if it is not there."""
    cache = Path(os.environ.get("MLAGENT_CACHE", Path.home() / ".cache" / "mlagent")) / "tasks"
    try:
        prepared = cache / name
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{prepared}.lock", timeout=PREPARE_SECONDS):
            if not prepared.exists():
                partial = prepared.with_name(f"{name}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                make(partial)
                partial.rename(prepared)
    except Timeout as error:
        raise TaskError(
            f"{prepared}.lock: another process has prepared this task for {PREPARE_SECONDS:.0f} s"
        ) from error
    except OSError as error:
        raise TaskError(f"task {name} cannot be prepared in {cache} (set MLAGENT_CACHE to move it): {error}") from error
    return prepared


def _content_hash(source: Path) -> str:
    """Hash of a folder's files, and of the module that prepare.py scripts split data with."""
    digest = hashlib.sha256(Path(__file__).with_name("splits.py").read_bytes())
    for path in sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(f"{path.relative_to(source)}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]


def _run_prepare(source: Path, scripts: Path) -> None:
    """Run prepare.py in the copy, able to import `envs.splits`."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    script = source / "scripts" / "prepare.py"
    try:
        done = subprocess.run(
            [sys.executable, "prepare.py"], cwd=scripts, env=environment, capture_output=True, text=True,
            errors="replace", timeout=PREPARE_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TaskError(f"{script} ran longer than {PREPARE_SECONDS:.0f} s") from error
    if done.returncode:
        raise TaskError(f"{script} failed; correct it:\n{(done.stdout + done.stderr)[-2000:].strip()}")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{file} is not a readable text file (UTF-8): {error}") from error


def _matches(name: str, globs: list[str]) -> bool:
    return any(fnmatch.fnmatch(name, glob.removeprefix("./")) for glob in globs)
