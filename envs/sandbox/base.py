"""What every sandbox backend offers, and the conversation with the runner inside it.

Invariants: `run` answers within the experiment's time limit plus a grace, or raises; an exception of a sandbox means
that the sandbox failed, never that the experiment did; a sandbox that raised is closed and not used again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from envs.records import Limits, Task

GRACE_SECONDS = 10.0
START_SECONDS = 60.0
BUNDLED_DATA = ("sklearn/datasets/data", "sklearn/datasets/images")
"""Folders below site-packages that hold the source data of tasks, answers included: hidden from experiments."""
FIRST_UID = 2_000_000
"""On a host that runs as root, slot n's experiments run as user FIRST_UID + n, which owns nothing else."""


class SandboxFailure(RuntimeError):
    """The sandbox, not the experiment, failed; the message names the backend and what to do."""


@dataclass(frozen=True)
class RunResult:
    """What became of one experiment."""

    status: str
    """`ok` (exit code 0), `error`, `timeout` or `out_of_memory`."""
    exit_code: int | None
    seconds: float
    output: str
    """stdout and stderr together, the middle left out where it is long."""


class Channel(Protocol):
    """A line-by-line connection to the runner in a sandbox."""

    def send(self, line: str) -> None: ...

    def receive(self, timeout: float) -> str:
        """The next line.

        Raises:
            SandboxFailure: the sandbox ended, or sent nothing in `timeout` seconds.
        """
        ...

    def close(self) -> None: ...


class Backend(Protocol):
    """A way to isolate experiments."""

    name: str

    def open(self, task: Task, workspace: Path, uid: int) -> Channel:
        """Start a sandbox that sees `task.env_dir` (read-only) and `workspace`, its runner waiting for the first line.

        Raises:
            SandboxFailure: it does not start; the message says why and what to do.
        """
        ...


class Sandbox:
    """One warm sandbox of one task: runs one experiment at a time in its workspace."""

    def __init__(self, backend: Backend, task: Task, slot: int):
        self.task = task
        self._folder = Path(tempfile.mkdtemp(prefix="mlagent-slot-"))
        self.workspace = self._folder / "workspace"
        self.workspace.mkdir()
        uid = FIRST_UID + slot if os.getuid() == 0 else os.getuid()
        if os.getuid() == 0:
            os.chown(self.workspace, uid, uid)
        try:
            self._channel = backend.open(task, self.workspace, uid)
            self._channel.send(json.dumps({"uid": uid}))
            self._channel.receive(START_SECONDS)
        except BaseException:
            self.close()
            raise

    def run(self, argv: Sequence[str], limits: Limits, env: Mapping[str, str] | None = None) -> RunResult:
        """Run the Python script `argv[0]` with its arguments in the workspace.

        Raises:
            SandboxFailure: the sandbox died or did not answer.
        """
        request = {
            "argv": list(argv), "env": dict(env or {}), "seconds": limits.seconds, "memory_mb": limits.memory_mb,
            "disk_mb": limits.disk_mb, "processes": limits.processes,
        }  # fmt: skip
        self._channel.send(json.dumps(request))
        return RunResult(**json.loads(self._channel.receive(limits.seconds + GRACE_SECONDS)))

    def close(self) -> None:
        if channel := getattr(self, "_channel", None):
            channel.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def environment(limits: Limits) -> dict[str, str]:
    """Environment of the runner: numerical libraries use no more threads than the experiment has cores."""
    threads = str(max(1, int(limits.cpus)))
    libraries = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "LOKY_MAX")
    names = {f"{name}_{'CPU_COUNT' if name == 'LOKY_MAX' else 'NUM_THREADS'}": threads for name in libraries}
    return {**names, "HOME": "/tmp", "USER": "agent", "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
