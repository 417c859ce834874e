"""Sandboxes: where experiments run. `SandboxPool` keeps them warm and hands them out.

Invariants: at most `slots` experiments run at once, and at most `warm` sandboxes exist; a sandbox serves one experiment
at a time; one that failed is closed, and where there is no room, the idle one used longest ago makes way.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from envs.records import Task
from envs.sandbox.base import Backend, RunResult, Sandbox, SandboxFailure

__all__ = ["RunResult", "Sandbox", "SandboxFailure", "SandboxPool"]

log = logging.getLogger(__name__)


class SandboxPool:
    """Thread-safe pool of warm sandboxes of one backend."""

    def __init__(self, backend: str = "auto", slots: int = 1, image: str = "", warm: int = 1):
        """warm: sandboxes kept, of all tasks together, at least `slots`; starting one takes a second."""
        self._backend = _choose(backend, image)
        self.name = self._backend.name
        self._slots, self._in_use = slots, 0
        self._free = list(range(max(slots, warm)))
        self._idle: list[tuple[int, Sandbox]] = []
        self._changed = threading.Condition()
        self._closed = False

    @contextlib.contextmanager
    def acquire(self, task: Task) -> Iterator[Sandbox]:
        """A sandbox of `task`, for as long as the context lasts; waits until there is room.

        Raises:
            SandboxFailure: a new sandbox does not start.
        """
        slot, sandbox = self._take(task)
        try:
            if sandbox is None:
                sandbox = Sandbox(self._backend, task, slot)
            yield sandbox
        except BaseException:
            self._discard(slot, sandbox)
            raise
        with self._changed:
            if not self._closed:
                self._idle.append((slot, sandbox))
                self._in_use -= 1
                self._changed.notify()
                return
        self._discard(slot, sandbox)

    def _discard(self, slot: int, sandbox: Sandbox | None) -> None:
        """Close a sandbox that was in use (None if it did not start)."""
        try:
            if sandbox is not None:
                sandbox.close()
        finally:
            with self._changed:
                self._free.append(slot)
                self._in_use -= 1
                self._changed.notify()

    def _take(self, task: Task) -> tuple[int, Sandbox | None]:
        with self._changed:
            self._changed.wait_for(lambda: self._in_use < self._slots or self._closed)
            if self._closed:
                raise SandboxFailure("the sandboxes have been closed")
            self._in_use += 1
            for position, (_, sandbox) in enumerate(self._idle):
                if sandbox.task.env_dir == task.env_dir and sandbox.task.limits == task.limits:
                    return self._idle.pop(position)
            if self._free:
                return self._free.pop(), None
            slot, oldest = self._idle.pop(0)
        try:
            oldest.close()
        except BaseException:
            self._discard(slot, None)
            raise
        return slot, None

    def close(self) -> None:
        """Close the idle sandboxes now, and those in use as soon as they are given back."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            idle, self._idle = self._idle, []
        for _, sandbox in idle:
            sandbox.close()


def _choose(name: str, image: str) -> Backend:
    """The backend of that name; `auto` is docker where an engine answers, otherwise process."""
    from envs.sandbox.docker import DockerBackend
    from envs.sandbox.process import ProcessBackend

    if name == "docker":
        return DockerBackend(image)
    if name == "process":
        return ProcessBackend()
    try:
        return DockerBackend(image)
    except SandboxFailure as reason:
        log.warning("experiments run in the process sandbox, which is weaker than Docker: %s", reason)
        return ProcessBackend()
