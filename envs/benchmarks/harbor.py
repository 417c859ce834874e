"""Harbor (https://github.com/harbor-framework/harbor): `harbor:FOLDER` is a task of that format, schema 1.4 and before.

    FOLDER/task.toml, instruction.md      limits; what the policy is told
    FOLDER/environment/Dockerfile         copies the files that the policy works on
    FOLDER/tests/test.sh                  writes the reward to /logs/verifier/reward.txt or reward.json
    FOLDER/solution/solve.sh              optional: what `mlagent tasks best` runs

The task's script is solve.sh, empty at first: commands that run in the task's working folder before each verification
(`envs.verification`), which the policy writes by edits, beside what it does by commands. Invariants: the folder is
never written to; tests and solution are in no sandbox of the policy; what cannot be honoured is refused in one
sentence.
"""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from envs.benchmarks import dockerfile
from envs.benchmarks.competition import digest
from envs.benchmarks.task_cache import made_once
from envs.benchmarks.task_file import TaskError
from envs.records import Direction

SCRIPT, TESTS = "solve.sh", "tests"
START = "# Commands that do the task; they run in {workdir}, and then its tests look at the files there.\n"
TOLD = """

Your files are in {workdir}. {script} runs there before the task's tests, which are not shown; there is no network."""
CANARY = re.compile(r"(?:<!--.*canary.*-->|#.*canary.*)\s*", re.IGNORECASE)
"""Lines that mark a benchmark's files, at the top of an instruction; Harbor shows them to no agent either."""
SECONDS = 600.0
"""Of solve.sh, and of the tests, where nothing is stated."""
LEAST = {"cpus": 1.0, "memory_mb": 2048, "storage_mb": 2048, "gpus": 0}
"""Where task.toml states none."""
UNSUPPORTED = {
    "environment": ("mcp_servers", "healthcheck", "skills_dir", "tpu", "gpu_types"),
    "verifier": ("environment", "collect", "env"),
}  # fmt: skip
"""Keys of task.toml that ask for what no sandbox here has."""


def task_folder(name: str) -> Path:
    """The task in `name`, a folder, as a prepared task folder: a `TaskSource` (envs.benchmarks.sources).

    Raises:
        TaskError: it is no such task, or asks for what no sandbox here has.
    """
    folder, asked = Path(name).expanduser(), f"harbor:{name}"
    for needed in ("task.toml", "instruction.md", "tests/test.sh"):
        if not (folder / needed).is_file():
            raise TaskError(f"{asked}: {folder / needed} is missing: a task of Harbor has one step and a test.sh")
    stated = _toml(folder / "task.toml")
    environment, verifier = stated.get("environment", {}), stated.get("verifier", {})
    _require_supported(asked, folder, stated)
    try:
        plain = dockerfile.read(folder / "environment/Dockerfile", environment.get("workdir") or "")
    except dockerfile.NotPlain as reason:
        raise TaskError(
            f"{asked}: {folder / 'environment/Dockerfile'} {reason}: it is honoured as far as it copies files into one "
            f"folder and installs {', '.join(sorted(dockerfile.THERE))}"
        ) from reason
    except (OSError, ValueError) as error:
        raise TaskError(f"{asked}: {folder / 'environment/Dockerfile'} cannot be read: {error}") from error
    limits = _limits(stated, asked)
    key = digest(__file__, [Path(dockerfile.__file__).read_bytes()], sorted(folder.rglob("*")), folder)

    def make(made: Path) -> None:
        script = _script(plain)
        for place, source in plain.files.items():
            target = made / "env" / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
        (made / "env").mkdir(parents=True, exist_ok=True)
        (made / "env" / script).write_text(START.format(workdir=plain.workdir))
        for path in (made / "env", *(made / "env").rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
        scripts = made / "scripts"
        shutil.copytree(folder / "tests", scripts / TESTS)
        told = TOLD.format(workdir=plain.workdir, script=script)
        (scripts / "research_problem.txt").write_text(_without_canary(folder / "instruction.md") + told)
        (scripts / "read_only_files.txt").write_text("")
        solution = folder / "solution"
        if solution.is_dir() and [path.name for path in solution.iterdir()] == ["solve.sh"]:
            shutil.copyfile(solution / "solve.sh", scripts / "best.sh")
        env = {**plain.env, **environment.get("env", {})}
        task = {
            "metric": "reward", "direction": str(Direction.MAXIMIZE), "best": 1.0, "best_from": "all tests are passed",
            "origin": f"Harbor, {stated.get('task', {}).get('name', folder.name)}", "actions": ["shell"],
            "licence": "as published with the task", "script": script, "limits": limits,
            "verifier": {
                "tests": TESTS, "workdir": plain.workdir, "seconds": float(verifier.get("timeout_sec") or SECONDS),
                "env": {name: str(value) for name, value in env.items()},
            },
        }  # fmt: skip
        (made / "task.yaml").write_text(yaml.safe_dump(task, sort_keys=False))

    return made_once(f"{folder.resolve().name}-{key}", make)


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TaskError(f"{file}: {error}") from error


def _require_supported(asked: str, folder: Path, stated: Mapping[str, Any]) -> None:
    """Raises TaskError."""
    environment = stated.get("environment", {})
    if stated.get("steps"):
        raise TaskError(f"{asked}: it has several steps, and those of one step alone can be trained on")
    if str(environment.get("os", "linux")).lower() != "linux":
        raise TaskError(f"{asked}: its environment is {environment['os']}, and sandboxes have Linux")
    for section, keys in UNSUPPORTED.items():
        if used := [key for key in keys if stated.get(section, {}).get(key)]:
            raise TaskError(f"{asked}: task.toml asks for {section}.{used[0]}, which no sandbox here has")
    for name in ("environment/docker-compose.yaml", "tests/docker-compose.yaml", "tests/Dockerfile"):
        if (folder / name).exists():
            raise TaskError(f"{asked}: {folder / name} asks for a container of its own, which no sandbox here has")
    if not (folder / "environment/Dockerfile").is_file():
        raise TaskError(
            f"{asked}: there is no environment/Dockerfile, and images ({environment.get('docker_image', 'none')}) are "
            "not pulled"
        )
    if needed := [name for name, value in environment.get("env", {}).items() if "$" in str(value)]:
        raise TaskError(
            f"{asked}: environment.env.{needed[0]} is to come from the host, of which sandboxes see nothing"
        )


def _limits(stated: Mapping[str, Any], asked: str) -> dict[str, float]:
    environment = stated.get("environment", {})
    given = {name: environment.get(name) or least for name, least in LEAST.items()}
    for old, name in (("memory", "memory_mb"), ("storage", "storage_mb")):  # of schemas before 1.2
        if old in environment and name not in environment:
            given[name] = _megabytes(environment[old], f"{asked}: environment.{old}")
    return {
        "seconds": float(stated.get("agent", {}).get("timeout_sec") or SECONDS), "cpus": float(given["cpus"]),
        "memory_mb": int(given["memory_mb"]), "gpus": int(given["gpus"]), "disk_mb": int(given["storage_mb"]),
    }  # fmt: skip


def _megabytes(size: Any, what: str) -> int:
    if not (found := re.fullmatch(r"([\d.]+)([GMK])", str(size).strip().upper())):
        raise TaskError(f"{what} must be like 2G or 512M, not {size!r}")
    return int(float(found[1]) * {"G": 1024, "M": 1, "K": 1 / 1024}[found[2]])


def _script(plain: dockerfile.Plain) -> str:
    """A name that no file of the task has."""
    return SCRIPT if SCRIPT not in plain.files else f"mlagent_{SCRIPT}"


def _without_canary(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").split("\n")
    while lines and (CANARY.fullmatch(lines[0].strip()) or not lines[0].strip()):
        lines.pop(0)
    return "\n".join(lines).strip()
