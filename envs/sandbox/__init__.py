"""Sandboxes: where experiments run. `SandboxPool` keeps them warm and hands them out.

Invariants: a sandbox serves one experiment at a time; one that failed is closed, and so are those that were idle
meanwhile, since the engine may have taken them along; an engine that has worked before is waited for; of those not in
use at most `warm` are kept, the ones used last. How many are in use at once is the caller's affair (`envs.admission`).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from envs.records import Task
from envs.sandbox.base import UIDS_PER_PROCESS, Backend, RunResult, Sandbox, SandboxFailure, sweep

__all__ = ["RunResult", "Sandbox", "SandboxFailure", "SandboxPool"]

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class SandboxPool:
    """Thread-safe pool of warm sandboxes of one backend."""

    def __init__(
        self, backend: str = "auto", image: str = "", warm: int = 1, packages: str = "base", patience: float = 0.0
    ):
        """warm: idle sandboxes kept, of all tasks together; starting one takes a second.

        patience: seconds that a backend which started sandboxes before, and does not now, is asked again;
        packages: what experiments can import, `base` or `torch`.
        """
        sweep()
        self._backend = _choose(backend, image, packages)
        self.name, self.image, self.maps_root = self._backend.name, self._backend.image, self._backend.maps_root
        self._warm, self._patience, self._worked = warm, patience, False
        self._free = list(range(UIDS_PER_PROCESS))[::-1]
        self._idle: list[Sandbox] = []
        self._lock = threading.Lock()
        self._closed = False

    @property
    def idle(self) -> int:
        """Sandboxes that are started and wait for an experiment."""
        return len(self._idle)

    @contextlib.contextmanager
    def acquire(self, task: Task, gpus: tuple[int, ...] = ()) -> Iterator[Sandbox]:
        """A sandbox of `task` that sees the GPUs with these ids, for as long as the context lasts.

        Raises:
            SandboxFailure: a new sandbox does not start, or the pool has been closed.
        """
        sandbox = self._take(task, gpus)
        try:
            yield sandbox
        except BaseException as error:
            suspects = []
            if isinstance(error, SandboxFailure):
                with self._lock:
                    suspects, self._idle = self._idle, []
            for gone in [sandbox, *suspects]:
                self._end(gone)
            raise
        with self._lock:
            if sandbox.usable:
                self._idle.append(sandbox)
            surplus = [self._idle.pop(0) for _ in range(len(self._idle) - (0 if self._closed else self._warm))]
        for gone in surplus if sandbox.usable else [*surplus, sandbox]:
            self._end(gone)

    def _take(self, task: Task, gpus: tuple[int, ...]) -> Sandbox:
        with self._lock:
            if self._closed:
                raise SandboxFailure("the sandboxes have been closed")
            for position, sandbox in reversed(list(enumerate(self._idle))):
                if sandbox.serves(task, gpus):
                    return self._idle.pop(position)
            if not self._free:
                raise SandboxFailure(f"{UIDS_PER_PROCESS} sandboxes are in use at once: lower sandbox.warm")
            slot = self._free.pop()
        try:
            return self._started(task, slot, gpus)
        except BaseException:
            self._free.append(slot)
            raise

    def _started(self, task: Task, slot: int, gpus: tuple[int, ...]) -> Sandbox:
        end = time.monotonic() + self._patience
        while True:
            try:
                sandbox = Sandbox(self._backend, task, slot, gpus)
            except SandboxFailure as reason:
                if not self._worked or self._closed or time.monotonic() > end:
                    raise
                log.warning("asking again for a sandbox: %s", reason)
                time.sleep(RETRY_SECONDS)
            else:
                self._worked = True
                return sandbox

    def _end(self, sandbox: Sandbox) -> None:
        try:
            sandbox.close()
        finally:
            self._free.append(sandbox.slot)

    def close(self) -> None:
        """Close the idle sandboxes now, and those in use as soon as they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for sandbox in idle:
            self._end(sandbox)


def _choose(name: str, image: str, packages: str) -> Backend:
    """The backend of that name; `auto` is the strongest that works here.

    Raises:
        SandboxFailure: it does not work here, or none does.
    """
    from envs.sandbox.docker import DockerBackend
    from envs.sandbox.gvisor import GvisorBackend
    from envs.sandbox.process import ProcessBackend

    backends: dict[str, Callable[[], Backend]] = {
        "docker": lambda: DockerBackend(image, packages),
        "gvisor": lambda: GvisorBackend(packages),
        "process": lambda: ProcessBackend(packages),
    }
    if name != "auto":
        return backends[name]()
    reasons = []
    for candidate, start in backends.items():
        try:
            chosen = start()
        except SandboxFailure as reason:
            reasons.append(f"not {candidate}: {reason}")
            continue
        for reason in reasons:
            log.warning("experiments run in the %s sandbox, %s", candidate, reason)
        return chosen
    raise SandboxFailure("no sandbox works here; " + "; ".join(reasons))
