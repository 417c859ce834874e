"""The host's side of `envs.grader`: starts the process that runs graders, and asks it for scores.

It is one per process of ours, started when it is first needed, and it ends with that process. Where bubblewrap works it
has no network, and all that it can write is its own folder; elsewhere it has our rights, which is said once.
Invariants: thread-safe; whatever a grader does, `ask` ends soon after its deadline; a worker grades one submission at a
time; of those that wait for one at most `WAITING` are kept, the ones used last.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envs.errors import SandboxFailure, TaskError
from envs.parts import TEST, VALIDATION
from envs.records import Task

SECONDS = 60
"""So long a grader may take for one submission, and to load."""
MEMORY_MB = 2048
"""What a grader may use beyond what it starts with."""
WAITING = 24
ATTEMPTS = 3
GRACE_SECONDS = 10.0
START_SECONDS = 120.0
MESSAGE_BYTES = 65536
EVAL = "eval.py"
ALL = "all"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Set to 1: a process with threads is not safely forked, and a grader needs none."""

Version = tuple[tuple[str, Path, int], ...]
"""A task's graders: what each sees, its file, and when that was last changed. One that was mended is loaded again."""

log = logging.getLogger(__name__)


class GraderProcess:
    """The process, and connections to its workers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder: tempfile.TemporaryDirectory | None = None
        self._control: socket.socket | None = None
        self._ready = False
        self.confined = False
        """Whether it has no network, and writes in its own folder only."""
        self._waiting: list[tuple[Version, socket.socket]] = []

    def start(self) -> str:
        """Start the process if it does not run, without waiting until it has loaded what graders need; its folder."""
        with self._lock:
            if self._control is None:
                self._start(shutil.which("bwrap"))
            return self._folder.name

    def ask(self, task: Task, submission: int) -> Mapping[str, Any]:
        """What the task's grader makes of the submission behind a descriptor: its `scores` by what it sees, with the
        `findings` of an audit, why it was `refused`, or how the grader `failed`.

        Raises:
            TaskError: the grader does not load.
            SandboxFailure: the process does not start, or was killed.
        """
        try:
            version = tuple((name, file, file.stat().st_mtime_ns) for name, file in graders(task).items())
        except OSError as error:
            raise TaskError(f"{error.filename} cannot be read: {error}") from error
        with tempfile.TemporaryDirectory(dir=self.start(), ignore_cleanup_errors=True) as folder:
            worker = self._given(task, version, folder, submission)
            started = time.monotonic()
            answer = _receive(worker, SECONDS * len(version) + GRACE_SECONDS)
        if answer is None:
            late = time.monotonic() - started >= SECONDS
            answer = {"failed": f"the grader took longer than {SECONDS} s" if late else "the grader ended its process"}
        if "failed" in answer:  # that was its last
            worker.close()
        else:
            self._give_back(version, worker)
        return answer

    def _given(self, task: Task, version: Version, folder: str, submission: int) -> socket.socket:
        """A worker that has taken the submission; one may have been killed while it waited for it."""
        for _ in range(ATTEMPTS):
            worker = self._take(task, version)
            with contextlib.suppress(OSError):
                request = {"folder": folder, "shown": str(task.env_dir)}
                socket.send_fds(worker, [json.dumps(request).encode()], [submission])
                if _receive(worker, GRACE_SECONDS) is not None:
                    return worker
            worker.close()
        raise SandboxFailure(f"{ATTEMPTS} graders were killed before they began: has this machine run out of memory?")

    def _take(self, task: Task, version: Version) -> socket.socket:
        """A worker that has loaded this task's graders."""
        with self._lock:
            for position, (loaded, worker) in reversed(list(enumerate(self._waiting))):
                if loaded == version:
                    del self._waiting[position]
                    return worker
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            request = {
                "graders": {name: str(file) for name, file, _ in version}, "parts": task.parts and str(task.parts),
                "path": sys.path, "seconds": SECONDS, "memory_mb": MEMORY_MB,
            }  # fmt: skip
            try:
                self._await_start()
                with theirs:
                    socket.send_fds(self._control, [json.dumps(request).encode()], [theirs.fileno()])
            except OSError as error:
                self._control = None
                raise SandboxFailure(f"the process that runs graders does not answer: {error}") from error
        answer = _receive(ours, SECONDS + GRACE_SECONDS)
        if answer == {}:
            return ours
        ours.close()
        reason = answer["failed"] if answer else f"it ended, or took longer than {SECONDS} s"
        raise TaskError(f"{task.private_dir / EVAL} does not load ({reason}): it must define get_score")

    def _give_back(self, version: Version, worker: socket.socket) -> None:
        with self._lock:
            self._waiting.append((version, worker))
            surplus = self._waiting[:-WAITING]
            del self._waiting[:-WAITING]
        for _, worker in surplus:
            worker.close()

    def _start(self, bubblewrap: str | None) -> None:
        from envs.sandbox.folders import PREFIX  # tests of an exported task grade without sandboxes

        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
            held = os.open(Path(self._folder.name, "lock"), os.O_CREAT | os.O_RDWR)  # as long as this process lives:
            fcntl.flock(held, fcntl.LOCK_EX)  # `sweep` deletes what one that was killed has left
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "envs.grader"]
        if bubblewrap:
            command = [bubblewrap, *_confinement(self._folder.name), "--", *command]
        self._ready, self.confined = False, bubblewrap is not None
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
        own = {**dict.fromkeys(THREADS, "1"), "TMPDIR": self._folder.name, "PYTHONPATH": path}
        with theirs:
            self._process = subprocess.Popen(
                command, stdin=theirs, stdout=subprocess.DEVNULL, start_new_session=True, env={**os.environ, **own}
            )

    def _await_start(self) -> None:
        """Wait until the process answers; where it does not start confined, start it unconfined."""
        if self._ready:
            return
        if _receive(self._control, START_SECONDS) is None:
            if not self.confined:
                raise OSError("it does not start")
            log.warning("graders run with the rights of this process: bubblewrap (`bwrap`) does not work here")
            self._start(None)
            self._await_start()
        self._ready = True


def graders(task: Task) -> dict[str, Path]:
    """The task's grader by what it sees: each part of the answers, or all of them where they have none, or where the
    scores that earn medals were scores on all."""
    own = {name: task.parts / name / EVAL for name in (VALIDATION, TEST)} if task.parts else {}
    return own if own and not task.medals else {**own, ALL: task.private_dir / EVAL}


def _confinement(folder: str) -> list[str]:
    """Whatever we can read is seen, nothing is written but in the folder, and there is no network."""
    rights = ["--cap-drop", "ALL", "--cap-add", "CAP_DAC_READ_SEARCH"] if os.getuid() == 0 else []
    return ["--ro-bind", "/", "/", "--dev", "/dev", "--bind", folder, folder, "--unshare-net", *rights]


def _receive(connection: socket.socket, seconds: float) -> dict[str, Any] | None:
    """The next message; None where the other side ended, or the time did, without one."""
    connection.settimeout(seconds)
    with contextlib.suppress(ConnectionError, TimeoutError):
        if message := connection.recv(MESSAGE_BYTES):
            return json.loads(message)
    return None
