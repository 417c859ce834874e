"""What every sandbox backend offers, and the conversation with the runner inside it.

Invariants: `run` answers within the experiment's time limit plus a grace, or raises; an exception of a sandbox means
that the sandbox failed, never that the experiment did; a sandbox that raised is closed and not used again.
"""

from __future__ import annotations

import abc
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from envs.errors import SandboxFailure
from envs.records import Build, Limits, Task
from envs.sandbox import (
    disk,
    fixed,
    lookups,
    memory,
    milestones,
    output,
    preload,
    privileges,
    seccomp,
    sysv,
    unforked,
)
from envs.sandbox.data import TaskData
from envs.sandbox.folders import HeldFolder

MOUNTED_TASK = "/task"
"""Where every sandbox shows the `env_dir` of the task that it serves, read-only."""
TESTS, LOGS = "/tests", "/logs"
"""Where a verifier has its tests, and where it writes its reward."""
GRACE_SECONDS = 10.0
START_SECONDS = 60.0
FIRST_UID = 2_000_000
UIDS_PER_PROCESS = 256
"""On a host that runs as root, each slot of each host process has its own user id from FIRST_UID on, which owns nothing
else: limits on processes are counted per user."""

MODULES = {
    "unforked": unforked, "disk": disk, "fixed": fixed, "lookups": lookups, "memory": memory, "milestones": milestones,
    "output": output, "preload": preload, "privileges": privileges, "seccomp": seccomp, "sysv": sysv,
}  # fmt: skip
"""What the runner gets of this package."""


@dataclass(frozen=True)
class RunResult:
    """What became of one experiment."""

    status: str
    """`ok` (exit code 0), `error`, `timeout`, `out_of_memory` or `disk_full`."""
    exit_code: int | None
    seconds: float
    output: str
    """stdout and stderr together, the middle left out where it is long."""
    peak_mb: float = 0.0
    """MiB that the experiment's largest process had at most, beyond what it starts with."""
    milestones: tuple[str, ...] = ()
    """Of `milestones.NAMES`, those that it was seen to reach."""


@dataclass(frozen=True)
class Folders:
    """The host's folders that a sandbox has mounted."""

    name: str
    """Unique on this machine."""
    workspace: Path
    shown: Path
    """Where the data of the task are, seen at `MOUNTED_TASK`."""
    places: tuple[tuple[str, Path, bool], ...] = ()
    """(where it is seen, folder, whether it may be written) of what else is seen."""


@dataclass(frozen=True)
class Room:
    """The places that a task names itself, beside /workspace and /task."""

    workdir: str = ""
    """Where the workspace is seen as well."""
    verifies: bool = False
    """Whether there are /tests, read-only, and /logs: not where the policy acts."""
    build: Build | None = None
    """Of the image that all this is in; None: that of all experiments."""


@dataclass(frozen=True)
class Kind:
    """What cannot be changed once a sandbox has started; it serves every task of its kind."""

    limits: Limits
    """As they are at the start: memory and cores can be changed."""
    gpus: tuple[int, ...]
    room: Room = Room()


def room_of(task: Task, verifies: bool = False) -> Room:
    """Where a task's script runs, or its verifier's tests do."""
    return Room(task.verifier.workdir, verifies, task.verifier.build) if task.verifier else Room()


def kind_of(limits: Limits, gpus: Sequence[int] = (), room: Room = Room()) -> Kind:
    """The kind of sandbox for experiments with these limits that see the GPUs with these ids, and the room's places."""
    fixed = {"cpus": float(_threads(limits)), "disk_mb": limits.disk_mb, "processes": limits.processes}
    return Kind(Limits(gpus=len(gpus), **fixed), tuple(sorted(gpus)), room)


class Channel(abc.ABC):
    """A connection to the runner in a sandbox: lines, and bytes whose number a line has told."""

    contained: bool
    """Memory and processes of an experiment are limited as a whole; otherwise the runner limits each process, and
    counts."""
    name: str
    """For messages."""

    def __init__(self) -> None:
        self._received = b""

    @abc.abstractmethod
    def limit(self, memory_mb: int, cpus: float) -> None:
        """Give experiments so much from now on, all their processes together.

        Raises:
            SandboxFailure: it cannot be changed.
        """

    @abc.abstractmethod
    def send(self, line: str) -> None: ...

    def receive(self, timeout: float) -> str:
        """The next line.

        Raises:
            SandboxFailure: the sandbox ended, or sent nothing in `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while b"\n" not in self._received:
            self._wait(deadline, timeout)
        line, self._received = self._received.split(b"\n", 1)
        return line.decode()

    def receive_bytes(self, count: int, timeout: float) -> bytes:
        """As `receive`, but for the next `count` bytes."""
        deadline = time.monotonic() + timeout
        while len(self._received) < count:
            self._wait(deadline, timeout)
        data, self._received = self._received[:count], self._received[count:]
        return data

    def _wait(self, deadline: float, timeout: float) -> None:
        try:
            self._received += self._more(deadline)
        except TimeoutError as error:
            raise SandboxFailure(f"{self.name} did not answer in {timeout:.0f} s") from error

    @abc.abstractmethod
    def _more(self, deadline: float) -> bytes:
        """What has come since, by the monotonic clock's `deadline`.

        Raises:
            TimeoutError: nothing has.
            SandboxFailure: the sandbox ended.
        """

    @abc.abstractmethod
    def ran_out_of_memory(self) -> bool:
        """Whether the kernel ended a process of the sandbox for want of memory since the last `send`."""

    @abc.abstractmethod
    def has_room(self, memory_mb: int) -> bool:
        """Whether the next experiment finds that much memory; waits a moment for what the last one had."""

    @abc.abstractmethod
    def close(self) -> None: ...


class Backend(Protocol):
    """A way to isolate experiments."""

    name: str
    image: str
    """What experiments find installed: the same name, the same packages."""
    guarded: bool
    """The runner must be another user than its experiments, or they could end it."""
    maps_root: bool
    """Inside, this process's own user is user 0, without privileges, as in a rootless engine: runner and experiment
    stay it."""

    def open(self, folders: Folders, kind: Kind, uid: int) -> Channel:
        """Start a sandbox that sees `folders.shown` (read-only) and `folders.workspace`, its runner waiting for the
        first line.

        Raises:
            SandboxFailure: it does not start; the message says why and what to do.
        """
        ...


class Sandbox:
    """One warm sandbox: runs one experiment at a time in its workspace, of any task of its kind."""

    def __init__(self, backend: Backend, data: TaskData, kind: Kind, slot: int):
        self.kind, self.slot = kind, slot
        self.usable = True
        """False once it has ended: it must be closed."""
        self._data, self._showing = data, None
        self._shares = kind.limits.memory_mb, kind.limits.cpus
        self._channel: Channel | None = None
        self._folder = HeldFolder()
        self.workspace, self._shown = self._folder.make("workspace"), self._folder.make("task")
        self._tests, self.logs = self._folder.make("tests"), self._folder.make("logs")
        try:
            uid = os.getuid()
            if uid == 0:
                uid = FIRST_UID + os.getpid() * UIDS_PER_PROCESS + slot
                _give(self.workspace, uid)
                _give(self.logs, uid)
            places = [(kind.room.workdir, self.workspace, True)] if kind.room.workdir else []
            if kind.room.verifies:
                places += [(TESTS, self._tests, False), (LOGS, self.logs, True)]
            folders = Folders(self._folder.path.name, self.workspace, self._shown, tuple(places))
            self._channel = backend.open(folders, kind, uid)
            setup = {
                "uid": 0 if backend.maps_root else uid, "contained": self._channel.contained,
                "guarded": backend.guarded, "counted": not self._channel.contained and not backend.guarded,
                "gpus": bool(kind.gpus),
                "task": MOUNTED_TASK, "workdir": kind.room.workdir,
                "modules": {name: Path(module.__file__).read_text() for name, module in MODULES.items()},
            }  # fmt: skip
            self._channel.send(json.dumps(setup))
            self._channel.receive(START_SECONDS)
        except BaseException:
            self.close()
            raise

    def fits(self, task: Task) -> int:
        """The larger, the less there is to do before it serves this task of its kind."""
        return 2 * (self._showing == self._shows(task)) + (self._shares == (task.limits.memory_mb, task.limits.cpus))

    def serve(self, task: Task) -> None:
        """Show this task, and no other, and have its limits.

        Raises:
            SandboxFailure: its limits cannot be changed.
            OSError: the task cannot be shown.
        """
        shares = task.limits.memory_mb, task.limits.cpus
        if self._shares != shares:
            self._channel.limit(*shares)
            self._shares = shares
        if self._showing != self._shows(task):
            self._showing = None  # until all of it is there
            self._data.show(task.env_dir, self._shown)
            if self.kind.room.verifies:
                self._data.show(task.verifier.tests, self._tests)
            self._showing = self._shows(task)

    def _shows(self, task: Task) -> tuple[Path, ...]:
        return (task.env_dir, task.verifier.tests) if self.kind.room.verifies else (task.env_dir,)

    def run(
        self, argv: Sequence[str], limits: Limits, env: Mapping[str, str] | None = None, seed: int | None = None
    ) -> RunResult:
        """Run the Python script `argv[0]`, or `bash`, with its arguments in the workspace.

        seed: of the random numbers it starts with; None draws fresh ones.

        Raises:
            SandboxFailure: the sandbox died or did not answer.
        """
        bounds = {
            "seconds": limits.seconds, "memory_mb": limits.memory_mb, "disk_mb": limits.disk_mb,
            "processes": limits.processes,
        }  # fmt: skip
        order = {**bounds, "argv": list(argv), "env": dict(env or {}), "seed": seed}
        started = time.monotonic()
        self._channel.send(f"{json.dumps(bounds)}\n{json.dumps(order)}")
        try:
            told = self._channel.receive_bytes(output.REPLY.size, limits.seconds + GRACE_SECONDS)
            status, code, seconds, peak_mb, reached, head, tail, dropped = output.REPLY.unpack(told)
            printed = self._channel.receive_bytes(head + tail, GRACE_SECONDS)
        except SandboxFailure:
            self.usable = False
            if not self._channel.ran_out_of_memory():
                raise
            seconds = time.monotonic() - started
            return RunResult("out_of_memory", None, seconds, "Killed: out of memory", float(limits.memory_mb))
        self.usable = self._channel.has_room(limits.memory_mb)
        return RunResult(
            output.STATUSES[status], None if code == output.NO_CODE else code, seconds,
            _text(printed[:head], printed[head:], dropped), peak_mb,
            tuple(name for number, name in enumerate(milestones.NAMES) if reached >> number & 1),
        )  # fmt: skip

    def close(self) -> None:
        """End the runner and whatever it runs, and delete the workspace."""
        if self._channel:
            self._channel.close()
        self._folder.close()


def _text(head: bytes, tail: bytes, dropped: int) -> str:
    gap = f"\n[… {dropped} bytes left out …]\n".encode() if dropped else b""
    return (head + gap + tail).decode(errors="replace")


def _give(workspace: Path, uid: int) -> None:
    try:
        os.chown(workspace, uid, uid)
    except OSError as error:
        raise SandboxFailure(f"root may not use user id {uid} here ({error}): run as an ordinary user") from error


def _threads(limits: Limits) -> int:
    return max(1, int(limits.cpus))


def environment(limits: Limits) -> dict[str, str]:
    """Environment of the runner: numerical libraries use no more threads than the experiment has cores."""
    threads = str(_threads(limits))
    libraries = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "LOKY_MAX")
    names = {f"{name}_{'CPU_COUNT' if name == 'LOKY_MAX' else 'NUM_THREADS'}": threads for name in libraries}
    return {**names, "HOME": "/tmp", "USER": "agent", "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
