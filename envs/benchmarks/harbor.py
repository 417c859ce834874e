"""Harbor (https://github.com/harbor-framework/harbor): `harbor:FOLDER` is a task of that format, schema 1.4 and before.

    FOLDER/task.toml, instruction.md      limits; what the policy is told
    FOLDER/environment/Dockerfile         has the files that the policy works on
    FOLDER/tests/test.sh                  writes the reward to /logs/verifier/reward.txt or reward.json
    FOLDER/solution/solve.sh              optional: what `mlagent tasks best` runs

The task's script is solve.sh, empty at first: commands that run in the task's working folder before each verification
(`envs.verification`), which the policy writes by edits, beside what it does by commands. A Dockerfile that asks for no
more than any sandbox has is read; of any other the image is built (`envs.task_image`), in which script and tests run,
and the files of its working folder are the task's. Invariants: the folder is never written to; tests and solution are
in no sandbox of the policy; what cannot be honoured is refused in one sentence.
"""

from __future__ import annotations

import math
import os
import posixpath
import re
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from envs import docker_engine, task_image
from envs.benchmarks import content, dockerfile, links
from envs.benchmarks.competition import digest
from envs.benchmarks.task_cache import made_once
from envs.benchmarks.task_file import TaskError
from envs.errors import SandboxFailure
from envs.records import Build, Direction

SCRIPT, TESTS, BUILD = "solve.sh", "tests", "environment"
START = "# Commands that do the task; they run in {workdir}, and then its tests look at the files there.\n"
TOLD = """

Your files are in {workdir}. {script} runs there before the task's tests, which are not shown; there is no network."""
CANARY = re.compile(r"(?:<!--.*canary.*-->|#.*canary.*)\s*", re.IGNORECASE)
"""Lines that mark a benchmark's files, at the top of an instruction; Harbor shows them to no agent either."""
SECONDS = 600.0
"""Of solve.sh, of the tests, and of making an image, where nothing is stated."""
SILENT_SECONDS = 600.0
"""That the engine may say nothing; while it builds, it has a task's own time."""
LEAST = {"cpus": 1.0, "memory_mb": 2048, "storage_mb": 2048, "gpus": 0}
"""Where task.toml states none."""
TABLES = ("task", "agent", "environment", "verifier")
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
    # Links in environment/ are followed in an image only, unless they are what is read here.
    context, rest = folder / BUILD, [part for part in folder.iterdir() if part.name != BUILD]
    read = (context, context / "Dockerfile", context / ".dockerignore")
    links.require_own(folder, *rest, *(path for path in read if path.is_symlink()))
    stated = _toml(folder / "task.toml")
    environment = stated.get("environment", {})
    _require_supported(asked, folder, stated)
    plain, beyond = _read(asked, folder, environment)
    limits = _limits(stated, asked)
    seconds, build_seconds = (
        _seconds(stated, *key, asked) for key in (("verifier", "timeout_sec"), ("environment", "build_timeout_sec"))
    )
    makers = [Path(module.__file__).read_bytes() for module in (dockerfile, docker_engine, task_image)]
    there = {*folder.rglob("*"), *context.rglob("*"), *(file for part in rest for file in content.files(part))}
    key = digest(__file__, makers, sorted(there), folder)

    def make(made: Path) -> None:
        made.mkdir()
        if plain:
            place = plain
            _copy(plain.files, made / "env")
        else:
            build = Build(made / "scripts" / BUILD, build_seconds, _workdir(environment))
            place = _of_image(asked, beyond, folder, environment.get("docker_image"), made, build)
        script = SCRIPT if not (made / "env" / SCRIPT).exists() else f"mlagent_{SCRIPT}"
        (made / "env" / script).write_text(START.format(workdir=place.workdir))
        for path in (made / "env", *(made / "env").rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
        scripts = made / "scripts"
        shutil.copytree(folder / "tests", scripts / TESTS)
        told = TOLD.format(workdir=place.workdir, script=script)
        (scripts / "research_problem.txt").write_text(_without_canary(folder / "instruction.md") + told)
        (scripts / "read_only_files.txt").write_text("")
        solution = folder / "solution"
        if solution.is_dir() and [path.name for path in solution.iterdir()] == ["solve.sh"]:
            shutil.copyfile(solution / "solve.sh", scripts / "best.sh")
        env = {**place.env, **environment.get("env", {})}
        task = {
            "metric": "reward", "direction": str(Direction.MAXIMIZE), "best": 1.0, "best_from": "all tests are passed",
            "origin": f"Harbor, {stated.get('task', {}).get('name', folder.name)}", "actions": ["shell"],
            "licence": "as published with the task", "script": script, "limits": limits,
            "verifier": {
                "tests": TESTS, "workdir": place.workdir, "seconds": seconds,
                "env": {name: str(value) for name, value in env.items()},
                "build": {} if plain else {**asdict(build), "folder": BUILD},
            },
        }  # fmt: skip
        (made / "task.yaml").write_text(yaml.safe_dump(task, sort_keys=False))

    return made_once(f"{folder.resolve().name}-{key}", make)


def _read(asked: str, folder: Path, environment: Mapping[str, Any]) -> tuple[dockerfile.Plain | None, str]:
    """What the Dockerfile makes; or None, and why an image is needed for it. Raises TaskError."""
    file = folder / "environment/Dockerfile"
    if not file.is_file():
        return None, f"task.toml names the image {environment['docker_image']}"
    try:
        return dockerfile.read(file, _workdir(environment)), ""
    except dockerfile.NotPlain as reason:
        return None, f"{file} {reason}"
    except (OSError, ValueError) as error:
        raise TaskError(f"{asked}: {file} cannot be read: {error}") from error


def _copy(files: Mapping[str, Path], env: Path) -> None:
    env.mkdir()
    for place, source in files.items():
        target = env / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def _workdir(environment: Mapping[str, Any]) -> str:
    """That task.toml states, if it does."""
    return posixpath.normpath(str(stated)) if (stated := environment.get("workdir")) else ""


def _of_image(asked: str, beyond: str, folder: Path, image: str | None, made: Path, build: Build) -> dockerfile.Plain:
    """Fill `build.folder` with what the image is made of, and made/env with the files of its working folder.

    image: that is taken in place of environment/.

    Raises:
        TaskError: beyond, which is what the image is needed for, and why it cannot be had.
    """
    if image:
        build.folder.mkdir(parents=True)
        (build.folder / "Dockerfile").write_text(f"FROM {image}\n")
    else:
        shutil.copytree(folder / "environment", build.folder, symlinks=True)
    try:
        if build.workdir:
            dockerfile.require_place(build.workdir, dockerfile.OURS)
        client = docker_engine.connect(SILENT_SECONDS)
        found = task_image.built(client, build)
        workdir = build.workdir or posixpath.normpath(task_image.workdir(client, found))
        dockerfile.require_place(workdir, dockerfile.OURS)
        task_image.copy(client, found, workdir, made / "env")
    except (docker_engine.ImageError, SandboxFailure, dockerfile.NotPlain) as error:
        raise TaskError(
            f"{asked}: {beyond}, which only sandbox.backend=docker can give, in an image of its own: {error}"
        ) from error
    return dockerfile.Plain(workdir)


def _toml(file: Path) -> dict[str, Any]:
    try:
        stated = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TaskError(f"{file}: {error}") from error
    env = stated["environment"].get("env", {}) if isinstance(stated.get("environment"), dict) else {}
    for name, table in {**{name: stated.get(name, {}) for name in TABLES}, "environment.env": env}.items():
        if not isinstance(table, dict):
            raise TaskError(f"{file}: {name} must be a table, not {table!r}")
    return stated


def _require_supported(asked: str, folder: Path, stated: Mapping[str, Any]) -> None:
    """Raises TaskError."""
    environment, verifier = stated.get("environment", {}), stated.get("verifier", {})
    if stated.get("steps"):
        raise TaskError(f"{asked}: it has several steps, and those of one step alone can be trained on")
    if str(environment.get("os", "linux")).lower() != "linux":
        raise TaskError(f"{asked}: its environment is {environment['os']}, and sandboxes have Linux")
    for section, keys in UNSUPPORTED.items():
        if used := [key for key in keys if stated.get(section, {}).get(key)]:
            raise TaskError(f"{asked}: task.toml asks for {section}.{used[0]}, which no sandbox here has")
    if verifier.get("environment_mode") == "separate":
        raise TaskError(
            f"{asked}: task.toml asks for verifier.environment_mode = 'separate', in which tests see artifacts alone: "
            "here they see the files as the policy leaves them"
        )
    for name in ("environment/docker-compose.yaml", "tests/docker-compose.yaml", "tests/Dockerfile"):
        if (folder / name).exists():
            raise TaskError(f"{asked}: {folder / name} asks for a container of its own, which no sandbox here has")
    if not (environment.get("docker_image") or (folder / "environment/Dockerfile").is_file()):
        raise TaskError(f"{asked}: there is neither environment/Dockerfile nor a docker_image in task.toml")
    if needed := [name for name, value in environment.get("env", {}).items() if "$" in str(value)]:
        raise TaskError(
            f"{asked}: environment.env.{needed[0]} is to come from the host, of which sandboxes see nothing"
        )


def _seconds(stated: Mapping[str, Any], section: str, key: str, asked: str) -> float:
    """Raises TaskError."""
    given = stated.get(section, {}).get(key) or SECONDS
    if not (isinstance(given, int | float) and 0 < given < math.inf):
        raise TaskError(f"{asked}: {section}.{key} in task.toml must be a number above 0, not {given!r}")
    return float(given)


def _limits(stated: Mapping[str, Any], asked: str) -> dict[str, float]:
    """Raises TaskError."""
    environment = stated.get("environment", {})
    given = {name: environment.get(name) or least for name, least in LEAST.items()}
    for old, name in (("memory", "memory_mb"), ("storage", "storage_mb")):  # of schemas before 1.2
        if old in environment and name not in environment:
            given[name] = _megabytes(environment[old], f"{asked}: environment.{old}")
    try:
        return {
            "seconds": _seconds(stated, "agent", "timeout_sec", asked), "cpus": float(given["cpus"]),
            "memory_mb": int(given["memory_mb"]), "gpus": int(given["gpus"]), "disk_mb": int(given["storage_mb"]),
        }  # fmt: skip
    except (TypeError, ValueError, OverflowError) as error:
        raise TaskError(f"{asked}: a limit in task.toml is no number: {error}") from error


def _megabytes(size: Any, what: str) -> int:
    if not (found := re.fullmatch(r"([\d.]+)([GMK])", str(size).strip().upper())):
        raise TaskError(f"{what} must be like 2G or 512M, not {size!r}")
    return int(float(found[1]) * {"G": 1024, "M": 1, "K": 1 / 1024}[found[2]])


def _without_canary(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").split("\n")
    while lines and (CANARY.fullmatch(lines[0].strip()) or not lines[0].strip()):
        lines.pop(0)
    return "\n".join(lines).strip()
