"""Published task packages: `openmle:NAME`, `mledojo:NAME` and `sandmle:NAME` are tasks.

NAME is a package's folder, or its name in the folder that OPENMLE_DATA, MLEDOJO_DATA or SANDMLE_SYN_DATA_ROOT names.
The first two share a form (OpenMLE-Gym of github.com/FrontisAI/OpenRSI, MLE-Dojo): data/public with description.txt and
sample_submission.csv, data/private/test_answer.csv, and utils/metric.py with one class of `higher_is_better`,
`evaluate` and `validate_submission`. Where there is no data yet but raw/, utils/prepare.py makes it. SandMLE's are
prepared/public/ with description.md, answer.csv and evaluator.py, which prints what it makes of a submission.

Invariants: answers and graders are shown to no agent, wherever the package keeps them; metric.py is read, never run,
until it runs where all graders do (`envs.benchmarks.package_graders`); evaluator.py and prepare.py are run once, in a
process of their own with our rights, as a task's prepare.py is.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from envs.benchmarks import links, task_cache
from envs.benchmarks.competition import ANSWERS, digest, write
from envs.benchmarks.content import files
from envs.benchmarks.task_cache import made_once
from envs.benchmarks.task_file import TaskError
from envs.records import Direction

DATA = {"openmle": "OPENMLE_DATA", "mledojo": "MLEDOJO_DATA", "sandmle": "SANDMLE_SYN_DATA_ROOT"}
SAMPLE = "sample_submission.csv"
LIMITS = {"seconds": 600.0, "cpus": 2.0, "memory_mb": 8192, "disk_mb": 8192}
MICRO_LIMITS = {"seconds": 120.0, "cpus": 1.0, "memory_mb": 2048, "disk_mb": 1024}
"""SandMLE's tasks have 50 to 200 rows."""
MEDALS = ("gold", "silver", "bronze")
GRADER = """from envs.benchmarks import package_graders
from envs.grading import GradeError

grader = package_graders.{grader}(__file__)


def get_score(submission_folder):
    try:
        return grader(submission_folder)
    except package_graders.Invalid as reason:
        raise GradeError(str(reason)) from reason
"""
PREPARE = """import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("prepare", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.prepare(*map(pathlib.Path, sys.argv[2:]))
"""


def openmle(name: str) -> Path:
    """A package of OpenMLE-Gym as a prepared task folder: a `TaskSource`. Raises TaskError."""
    return _of_metric("openmle", name)


def mledojo(name: str) -> Path:
    """A competition of MLE-Dojo, likewise; the installed package mledojo gives the metric where the data has none."""
    return _of_metric("mledojo", name)


def sandmle(name: str) -> Path:
    """A task of SandMLE, likewise."""
    package = _package("sandmle", name)
    public = package / "prepared/public"
    links.require_own(package)
    _require(f"sandmle:{name}", *(public / file for file in ("description.md", "answer.csv", "evaluator.py", SAMPLE)))
    key = digest(__file__, [], files(public), public)

    def make(folder: Path) -> None:
        found = _evaluated(public, f"sandmle:{name}")
        scripts = {
            "research_problem.txt": _text(public / "description.md"), "eval.py": GRADER.format(grader="Evaluator"),
            "evaluator.py": public / "evaluator.py", "answer.csv": public / "answer.csv",
        }  # fmt: skip
        thresholds = {medal: found.get(f"{medal}_threshold") for medal in MEDALS}
        medals = {medal: float(least) for medal, least in thresholds.items() if least is not None}
        best = {"best": medals["gold"], "best_from": "the gold threshold of evaluator.py"} if "gold" in medals else {}
        stated = {
            "metric": "score", "direction": str(_direction(found["is_lower_better"] not in (True, 1, "true", "True"))),
            **best, "medals": medals, "origin": f"SandMLE (synthetic), {package.name}", "rows": _rows(public),
            "licence": "as published by SandMLE", "limits": MICRO_LIMITS,
        }  # fmt: skip
        write(folder, public, SAMPLE, stated, scripts, hidden=("evaluator.py", "answer.csv", "__pycache__"))

    return made_once(f"{package.name}-{key}", make)


def _of_metric(source: str, name: str) -> Path:
    package, asked = _package(source, name), f"{source}:{name}"
    links.require_own(package)
    metric = package / "utils/metric.py"
    if not metric.is_file() and (installed := importlib.util.find_spec("mledojo")):
        metric = Path(installed.submodule_search_locations[0], "competitions", package.name, "utils/metric.py")
    _require(asked, metric)
    public, private = package / "data/public", package / "data/private"
    prepare = package / "utils/prepare.py"
    made = not public.exists() and (package / "raw").is_dir() and prepare.is_file()
    if not made:
        _require(asked, public / "description.txt", public / SAMPLE, private / "test_answer.csv")
    kept = (package / folder for folder in (("raw",) if made else ("data/public", "data/private")))
    key = digest(__file__, [metric.read_bytes()], (path for of in kept for path in files(of)), package)

    def make(folder: Path) -> None:
        data = _prepared(package, folder, asked) if made else package / "data"
        name, larger = read_metric(metric)
        stated = {
            "metric": name, "direction": str(_direction(larger)), **_best(data / "private", larger),
            "origin": f"{package.name}, a task package of {source}", "licence": "the package's own",
            "rows": _rows(data / "public"), "limits": LIMITS,
        }  # fmt: skip
        problem = _text(data / "public/description.txt")
        scripts = {
            "research_problem.txt": problem, "eval.py": GRADER.format(grader="Metric"), "metric.py": metric,
            ANSWERS: data / "private/test_answer.csv",
        }  # fmt: skip
        write(folder, data / "public", SAMPLE, stated, scripts)
        if made:
            shutil.rmtree(data)

    return made_once(f"{package.name}-{key}", make)


def read_metric(file: Path) -> tuple[str, bool]:
    """(name of the metric, whether larger is better) of a metric.py, which is not run.

    The name is that of the function of scikit-learn that it imports, where there is one.

    Raises:
        TaskError: it has not one class with `evaluate`, or none that says which way is better.
    """
    try:
        tree = ast.parse(_text(file))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # null bytes, or nested without end
        raise TaskError(f"{file} is no Python: {error or type(error).__name__}") from error
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and "evaluate" in _methods(node)]
    if len(classes) != 1:
        raise TaskError(f"{file} must define one class with `evaluate`, not {len(classes)}")
    if (larger := _larger_is_better(classes[0])) is None:
        raise TaskError(
            f"{file}: {classes[0].name} does not say which way is better: give `higher_is_better` a default of True "
            "or False in its __init__"
        )
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "sklearn.metrics"
        for alias in node.names
    }
    return imported.pop() if len(imported) == 1 else "score", larger


def _methods(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    return {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}


def _larger_is_better(metric: ast.ClassDef) -> bool | None:
    """The default of the argument `higher_is_better`, or what is assigned to the attribute of that name."""
    found: list[tuple[str, ast.expr | None]] = []
    if init := _methods(metric).get("__init__"):
        given = [*init.args.posonlyargs, *init.args.args]
        found += zip([one.arg for one in reversed(given)], reversed(init.args.defaults), strict=False)
        found += zip([one.arg for one in init.args.kwonlyargs], init.args.kw_defaults, strict=True)
    for node in ast.walk(metric):
        if isinstance(node, ast.Assign):
            found += [(getattr(to, "attr", getattr(to, "id", "")), node.value) for to in node.targets]
        elif isinstance(node, ast.AnnAssign):
            found.append((getattr(node.target, "attr", getattr(node.target, "id", "")), node.value))
    values = [value.value for name, value in found if name == "higher_is_better" and isinstance(value, ast.Constant)]
    return next((value for value in values if isinstance(value, bool)), None)


def _package(source: str, name: str) -> Path:
    variable = DATA[source]
    root = os.environ.get(variable)
    for folder in (Path(name), *([Path(root, name)] if root else [])):
        if folder.is_dir():
            return folder.resolve()
    where = f"{Path(root, name)} is no folder" if root else f"set {variable} to the folder of the packages"
    raise TaskError(f"{source}:{name}: there is no folder {name}, and {where}")


def _require(asked: str, *files: Path) -> None:
    for file in files:
        if not file.is_file():
            raise TaskError(f"{asked}: {file} is missing: is the package whole, and its data prepared?")


def _prepared(package: Path, folder: Path, asked: str) -> Path:
    """The data that utils/prepare.py makes of a copy of raw/, some of which delete it, in a folder beside `folder`."""
    data = folder.with_name(f"{folder.name}.data")
    shutil.rmtree(data, ignore_errors=True)
    for name in ("public", "private"):
        (data / name).mkdir(parents=True)
    shutil.copytree(package / "raw", data / "raw")
    script = package / "utils/prepare.py"
    _run(["-c", PREPARE, str(script), *(str(data / name) for name in ("raw", "public", "private"))], data, str(script))
    for file in ("public/description.txt", f"public/{SAMPLE}", "private/test_answer.csv"):
        if not (data / file).is_file():
            raise TaskError(f"{asked}: {script} has made no {file}")
    return data


def _evaluated(public: Path, asked: str) -> Mapping[str, Any]:
    """What evaluator.py says of the sample submission: score, which way is better, thresholds of medals."""
    said = _run(["evaluator.py", "--submission_path", SAMPLE], public, f"{public / 'evaluator.py'}")
    try:
        found = json.loads(said)
        found["is_lower_better"]
    except (ValueError, TypeError, KeyError) as error:
        raise TaskError(
            f"{asked}: evaluator.py must print a JSON object with is_lower_better of {SAMPLE}, not {said[-300:]!r}"
        ) from error
    return found


def _run(arguments: list[str], folder: Path, script: str) -> str:
    """What a package's script prints."""
    try:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=task_cache.DEADLINE, check=False,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TaskError(f"{script} ran longer than {task_cache.DEADLINE:.0f} s") from error
    if done.returncode:
        raise TaskError(f"{script} failed:\n{(done.stdout + done.stderr)[-2000:].strip()}")
    return done.stdout.strip()


def _best(private: Path, larger: bool) -> dict[str, Any]:
    """The first of the leaderboard that MLE-Dojo puts beside the answers, as task.yaml states it."""
    file = private / "private_leaderboard.csv"
    if not file.is_file():
        return {}
    try:
        table = pd.read_csv(file)
    except ValueError as error:
        raise TaskError(f"{file} is no table: {error}") from error
    scores = pd.to_numeric(table.get("score", pd.Series(dtype=float)), errors="coerce").dropna()
    if scores.empty:
        return {}
    best = scores.max() if larger else scores.min()
    return {"best": float(best), "best_from": "first of the competition's leaderboard, on all answers"}


def _rows(public: Path) -> list[str]:
    return ["train.csv"] if (public / "train.csv").is_file() else []


def _direction(larger: bool) -> Direction:
    return Direction.MAXIMIZE if larger else Direction.MINIMIZE


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{file} is not a readable text file (UTF-8): {error}") from error
