"""A task of ours as a folder in Harbor's format (schema 1.4), which Harbor, TRL, SkyRL and verifiers take.

    FOLDER/task.toml, instruction.md      limits; the problem, and what has to be left
    FOLDER/environment/                   Dockerfile, and the files that the agent sees
    FOLDER/tests/                         graders, answers, and this package to grade and reward with (`envs.exported`)
    FOLDER/solution/solve.sh              the task's best solution, where it has one

The agent leaves submission.csv, by whatever means; the tests read that and run nothing of the agent's, since they run
where the answers are. Invariants: nothing of scripts/ lies outside tests/ and solution/, and no link in a task's
folders brings along what lies elsewhere.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from envs.benchmarks import links
from envs.errors import TaskError
from envs.grader_process import EVAL
from envs.grading import SUBMISSION
from envs.parts import IDS, TEST, VALIDATION
from envs.records import Direction, Task

SCHEMA = "1.4"
WORKDIR = "/app"
AGENT_SECONDS = 1800.0
"""The time of a trajectory in the ML-Agent paper."""
TESTS_SECONDS = 300.0
PACKAGES = ("numpy", "pandas", "scikit-learn")
LEFT_OUT = ("__pycache__", "best.py", "prepare.py")
"""Of scripts/, what tests do not need."""
IMAGE_MB = 2048
"""The image with its packages, some 600 MiB, and what agents install of their own."""
GRADERS_OWN = frozenset({"envs.grading", "envs.metrics"})
"""Of this project, what a task's eval.py may import there."""
CODE = "mlagent"
"""In tests/: this package."""
TOML = """schema_version = {schema}

[task]
name = {name}
description = {description}

[metadata]
metric = {metric}
direction = {direction}
start = {start}
origin = {origin}

[agent]
timeout_sec = {agent}

[verifier]
timeout_sec = {verifier}

[environment]
network_mode = "no-network"
workdir = {workdir}
cpus = {cpus}
memory_mb = {memory}
storage_mb = {storage}
gpus = {gpus}
"""
DOCKERFILE = """FROM python:{python}-slim
RUN pip install --no-cache-dir {packages}
WORKDIR {workdir}
COPY files/ ./
"""
INSTRUCTION = """{problem}

Metric: {metric} ({better} is better). The files are in {workdir}, and `python3 {script}` runs the script there, which
scores {start:.5g} as it is. Improve it, or write your own, and run it: it must leave `{submission}` in {workdir}, as
{script} writes it. That file alone is graded. There is no network.
"""
TEST_SH = """#!/bin/bash
# From this folder, so that nothing which an agent left is imported.
here="$PWD"
cd /tests/{code} && PYTHONDONTWRITEBYTECODE=1 exec python3 -s -m envs.exported "$here" /tests/task /logs/verifier
"""
SOLVE_SH = """#!/bin/bash
python3 - <<'END_OF_SOLUTION'
{solution}
END_OF_SOLUTION
"""


def write(folder: Path, task: Task, reward: Mapping[str, Any]) -> None:
    """Write the task, whose m_init is known, to a new folder.

    reward: the terms of the reward (`reward.Terms`), of a published version.

    Raises:
        TaskError: it is graded by what its tests would not have, or the folder cannot be written.
    """
    if task.verifier:
        raise TaskError(f"task {task.id} is one of Harbor's already")
    if ":" in reward["version"]:
        raise TaskError(f"reward.version={reward['version']} is not of this project: tests have the published ones")
    for file, name in _lacking(task.private_dir):
        raise TaskError(f"{file} imports {name}, which tests of an exported task do not have")
    for copied in _copied(task):
        links.require_own(copied)  # of env/ alone: beside it are the answers
    try:
        _write_environment(folder, task)
        _write_tests(folder / "tests", task, reward)
        _write_toml(folder, task)
        best = task.private_dir / "best.py"
        if best.is_file():
            (folder / "solution").mkdir()
            _script(folder / "solution/solve.sh", SOLVE_SH.format(solution=best.read_text().rstrip("\n")))
    except OSError as error:
        raise TaskError(f"{folder} cannot be written: {error}") from error


def _write_environment(folder: Path, task: Task) -> None:
    shutil.copytree(task.env_dir, folder / "environment/files")
    packages = " ".join(f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    (folder / "environment/Dockerfile").write_text(DOCKERFILE.format(python=python, packages=packages, workdir=WORKDIR))
    better = "higher" if task.direction is Direction.MAXIMIZE else "lower"
    (folder / "instruction.md").write_text(INSTRUCTION.format(
        problem=task.problem, metric=task.metric, better=better, workdir=WORKDIR, script=task.script, start=task.m_init,
        submission=SUBMISSION,
    ))  # fmt: skip


def _write_toml(folder: Path, task: Task) -> None:
    """Once the rest is there: Harbor's storage_mb is of the whole container, which holds the image, these files, and
    what an experiment may write: disk_mb in the working folder and again in /tmp."""
    exported = sum(path.stat().st_size for path in folder.rglob("*")) >> 20
    storage = IMAGE_MB + exported + 2 * task.limits.disk_mb
    given = {
        "schema": SCHEMA, "name": f"mlagent/{task.id.replace('@', '-at-')}",
        "description": f"{task.metric} of {task.id}", "metric": task.metric, "direction": str(task.direction),
        "start": task.m_init, "origin": f"mlagent task {task.id}",
        "agent": AGENT_SECONDS, "verifier": TESTS_SECONDS, "workdir": WORKDIR, "cpus": task.limits.cpus,
        "memory": task.limits.memory_mb, "storage": storage, "gpus": task.limits.gpus,
    }  # fmt: skip
    toml = TOML.format(**{name: _toml(value) for name, value in given.items()})
    (folder / "task.toml").write_text(toml, encoding="utf-8")


def _toml(value: str | float) -> str:
    """As JSON writes it, but for two characters: TOML has no surrogate escapes, and takes no DEL as it is."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _write_tests(tests: Path, task: Task, reward: Mapping[str, Any]) -> None:
    own, left_out = tests / "task", shutil.ignore_patterns(*LEFT_OUT)
    shutil.copytree(task.private_dir, own / "scripts", ignore=left_out)
    shutil.copytree(task.env_dir, own / "env")
    if task.parts:
        for part in (VALIDATION, TEST):
            shutil.copytree(task.parts / part, own / part, ignore=left_out)
        shutil.copy(task.parts / IDS, own)
    figures = {
        "id": task.id, "script": task.script, "metric": task.metric, "direction": str(task.direction),
        "split": task.split, "limits": asdict(task.limits), "m_best": task.m_best, "m_init": task.m_init,
        "medals": task.medals, "reward": dict(reward),
    }  # fmt: skip
    (own / "task.json").write_text(json.dumps(figures))
    root, unneeded = Path(__file__).parents[1], shutil.ignore_patterns("__pycache__", "tasks", "template", "images")
    for room in ("envs", "reward"):
        shutil.copytree(root / room, tests / CODE / room, ignore=unneeded)
    _script(tests / "test.sh", TEST_SH.format(code=CODE))


def _script(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


def _copied(task: Task) -> list[Path]:
    return [task.env_dir, task.private_dir, *(task.parts / part for part in (VALIDATION, TEST) if task.parts)]


def _lacking(scripts: Path) -> Iterator[tuple[Path, str]]:
    """What the grader, or a module beside it that it imports, imports and exported tests do not have, with the file."""
    has = {*sys.stdlib_module_names, "numpy", "pandas", "sklearn", "scipy"}
    beside = {path.stem: path for path in scripts.glob("*.py") if path.name not in LEFT_OUT}
    reached = [scripts / EVAL]
    for file in reached:  # which grows meanwhile
        for name in sorted(set(_imported(file))):
            own = beside.get(name.partition(".")[0])
            if own and own not in reached:
                reached.append(own)
            if not own and name not in GRADERS_OWN and name.partition(".")[0] not in has:
                yield file, name


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
