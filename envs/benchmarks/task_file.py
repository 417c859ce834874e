"""What task.yaml states of a task, and what is known of those that come without one.

The file lies in the task's folder, or beside it as NAME.yaml, so that a folder of another benchmark stays as it is.
Tasks of MLAgentBench that have run here are known by name. Invariant: an unknown key, a wrong type or an impossible
value is a `TaskError` that names file and key.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path, PurePosixPath
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from envs.errors import TaskError
from envs.records import Direction, Limits

SPLITS = ("held_in", "held_out")
ACTIONS = ("native", "mlagentbench", "shell")
MLAGENTBENCH = {"amp-parkinsons-disease-progression-prediction": ("SMAPE", Direction.MINIMIZE)}
"""Metric and direction of MLAgentBench's tasks that run here as published; envs/README.md says why others do not."""
MLAGENTBENCH_SECONDS = 1800.0


@dataclass
class BuildKeys:
    """Of the image that a task has for itself."""

    folder: str = ""
    """The folder, in scripts/, with the Dockerfile; empty: there is none, and the task runs as others do."""
    seconds: float = 600.0
    """That making it may take."""
    workdir: str = ""
    """In place of the image's own working folder."""


@dataclass
class VerifierKeys:
    """Of a task that is graded by tests of Harbor's form (envs.benchmarks.harbor)."""

    tests: str = ""
    """The folder with test.sh, in scripts/; empty where scripts/eval.py grades."""
    workdir: str = "/app"
    seconds: float = 600.0
    env: dict[str, str] = field(default_factory=dict)
    build: BuildKeys = field(default_factory=BuildKeys)
    """Of the image that script and tests run in."""


@dataclass
class TaskFile:
    """The keys of task.yaml."""

    metric: str
    """Name of the metric that eval.py computes."""
    direction: Direction
    """`maximize` or `minimize`."""
    best: float | None = None
    """Score of a strong solution on validation, if one is known; with the baseline's it spans the reward's range."""
    best_from: str = ""
    """How `best` was obtained."""
    origin: str = ""
    """Where the data comes from."""
    licence: str = ""
    """Licence of the data."""
    medals: dict[str, float] = field(default_factory=dict)
    """Least score of each medal, the best medal first, where the task has any."""
    actions: list[str] = field(default_factory=lambda: ["native"])
    """`mlagentbench` for the actions of that benchmark, `shell` for commands beside the `native` ones; one needs no
    list."""
    rows: list[str] = field(default_factory=list)
    """Files in env/ (.csv, .jsonl or .npz) of which a fidelity below 1 keeps a share of the rows."""
    parts: bool = True
    """Whether answers are divided into validation and test; false where eval.py needs all of them at once."""
    script: str = "train.py"
    split: str = "held_in"
    limits: Limits = field(default_factory=Limits)
    verifier: VerifierKeys = field(default_factory=VerifierKeys)
    keep: list[str] = field(default_factory=list)
    """Globs of files, such as a trained model, that a run may leave to the runs of later states."""
    keep_mb: int = 64
    """MiB that those of one state may have."""


def read(folder: Path) -> TaskFile:
    """What is stated of the task in `folder`.

    Raises:
        TaskError: nothing is, or it is wrong.
    """
    beside = folder.with_name(f"{folder.name}.yaml")
    for file in (folder / "task.yaml", beside):
        if file.exists():
            return _read(file)
    if folder.name in MLAGENTBENCH:
        metric, direction = MLAGENTBENCH[folder.name]
        limits = Limits(seconds=MLAGENTBENCH_SECONDS, memory_mb=8192, disk_mb=4096)
        return TaskFile(metric, direction, actions=["mlagentbench"], limits=limits)
    raise TaskError(
        f"{folder / 'task.yaml'} is missing: it, or {beside}, states at least metric and direction (docs/tasks.md)"
    )


def _read(file: Path) -> TaskFile:
    try:
        given = OmegaConf.load(file)
        if not isinstance(given, DictConfig):
            raise TaskError(f"{file} must be a mapping of keys to values")
        if found := next(_interpolations(OmegaConf.to_container(given)), None):
            raise TaskError(f"{file}: {found!r}: nothing is filled in here, least of all from the host: write it out")
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
        if isinstance(given.get("actions"), str):
            given.actions = [given.actions]
        stated: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TaskFile), given))
    except (OmegaConfBaseException, YAMLError, OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{file}: {' '.join(str(error).split())}") from error
    if wrong := _impossible(stated):
        raise TaskError(f"{file}: {wrong}")
    return stated


def _impossible(stated: TaskFile) -> str | None:
    """What is wrong with values that have the right type; None if nothing is."""
    if stated.split not in SPLITS:
        return f"split must be one of {', '.join(SPLITS)}, not {stated.split!r}"
    if not stated.actions or any(name not in ACTIONS for name in stated.actions):
        return f"actions must be some of {', '.join(ACTIONS)}, not {', '.join(stated.actions) or 'none'}"
    if "mlagentbench" in stated.actions and len(stated.actions) > 1:
        return "actions: those of mlagentbench come alone, without native ones and shell"
    if stated.best is not None and not math.isfinite(stated.best):
        return f"best must be a finite number, not {stated.best}"
    if stated.keep_mb < 1:
        return f"keep_mb must be at least 1, not {stated.keep_mb}"
    verifier = stated.verifier
    for key, place, paths in (
        ("script", "env/", [stated.script]), ("rows", "env/", stated.rows),
        ("verifier.tests", "scripts/", [verifier.tests]),
        ("verifier.build.folder", "scripts/", [verifier.build.folder]),
    ):  # fmt: skip
        if leading_out := [path for path in paths if path.startswith("/") or ".." in PurePosixPath(path).parts]:
            return f"{key} must be a path inside {place}, not {leading_out[0]!r}"
    if not verifier.workdir.startswith("/") or ".." in PurePosixPath(verifier.workdir).parts:
        return f"verifier.workdir must be an absolute path without .., not {verifier.workdir!r}"
    for name, value in (("", verifier.seconds), ("build.", verifier.build.seconds)):
        if not 0 < value < math.inf:
            return f"verifier.{name}seconds must be above 0 and finite, not {value}"
    for name, value in asdict(stated.limits).items():
        if not (value >= 0 if name == "gpus" else 0 < value < math.inf):
            return f"limits.{name} must be {'at least 0' if name == 'gpus' else 'above 0 and finite'}, not {value}"
    return None


def _interpolations(value: Any) -> Iterator[str]:
    """Texts in which OmegaConf would fill something in, such as a variable of the environment, which may be a key."""
    if isinstance(value, str) and "${" in value:
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _interpolations(item)


def _unknown(given: Mapping[str, Any], kind: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Dotted keys that the dataclass `kind`, which they would belong to, does not have."""
    hints = get_type_hints(kind)
    for key, value in given.items():
        if key not in hints:
            yield f"{prefix}{key}", kind
        elif is_dataclass(hints[key]) and isinstance(value, Mapping):
            yield from _unknown(value, hints[key], f"{prefix}{key}.")
