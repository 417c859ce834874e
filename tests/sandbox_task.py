"""A toy task, and the way to run a script as its script, for the tests of sandboxes."""

from __future__ import annotations

import contextlib
import os
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from envs.records import Direction, Limits, Task
from envs.sandbox import RunResult, SandboxFailure, SandboxPool
from envs.workspace import restore

LIMITS = Limits(seconds=30, memory_mb=300, disk_mb=32, processes=24)
BACKENDS = ("process", "docker", "gvisor")
GVISOR_LATER = (*BACKENDS[:2], pytest.param("gvisor", marks=pytest.mark.long))
"""For what is one code on all of them: a sandbox of gVisor takes eight CPU seconds to start."""
GRADER = "def get_score(folder):\n    return float(open(folder + '/submission.csv').read().split()[-1])\n"


def make_task(folder: Path, limits: Limits = LIMITS) -> Task:
    (folder / "env" / "data").mkdir(parents=True)
    (folder / "env" / "train.py").write_text("print('unchanged')\n")
    (folder / "env" / "train.csv").write_text("x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(200)))
    (folder / "env" / "data" / "part.txt").write_text("visible")
    (folder / "scripts").mkdir()
    (folder / "scripts" / "eval.py").write_text(GRADER)
    (folder / "scripts" / "answers-top-secret.csv").write_text("TOP SECRET")
    return Task(
        "toy", "problem", folder / "env", folder / "scripts", "train.py", frozenset(), "accuracy", Direction.MAXIMIZE,
        "held_in", limits, 1.0,
    )  # fmt: skip


@contextlib.contextmanager
def opened(backend: str) -> Iterator[SandboxPool]:
    """A pool of that backend; the test is skipped where it is not to be had."""
    os.environ["LEAKED_KEY"] = "secret"
    try:
        pool = SandboxPool(backend, warm=2)
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the {backend} sandbox is not to be had: {reason}")
    try:
        yield pool
    finally:
        pool.close()


def execute(pool: SandboxPool, task: Task, script: str, limits: Limits | None = None) -> RunResult:
    """Run `script` as the task's script; the workspace is that of the last run and cleaned first."""
    task = replace(task, limits=limits or task.limits)
    with pool.acquire(task) as sandbox:
        restore(task, {task.script: textwrap.dedent(script)}, sandbox.workspace)
        return sandbox.run([task.script], task.limits)


def runner_of(workspace: Path) -> int:
    """Host's process id of the PID 1 that has `workspace` mounted."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            mounted = str(workspace.parent.name) in (entry / "mountinfo").read_text()
            inner = (entry / "status").read_text().split("NSpid:")[1].split("\n")[0].split()
        except OSError:
            continue
        if mounted and inner[-1] == "1" and len(inner) > 1:
            return int(entry.name)
    raise LookupError(f"no runner has {workspace} mounted")
