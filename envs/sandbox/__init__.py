"""Sandboxes: where experiments run. `SandboxPool` keeps them warm and hands them out.

Invariants: a sandbox serves one experiment at a time, of any task of its kind; those that are expected are started
ahead of need, beside each other, and once they are there, no experiment waits for a start; one that failed is closed
and replaced, and so are those that were idle meanwhile, since the engine may have taken them along; an engine that has
worked before is waited for. How many are in use at once is the caller's affair (`envs.admission`).
"""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from envs.errors import LastingFailure, TaskError
from envs.records import Limits, Task
from envs.sandbox.base import (
    UIDS_PER_PROCESS,
    Backend,
    Kind,
    Room,
    RunResult,
    Sandbox,
    SandboxFailure,
    kind_of,
    room_of,
)
from envs.sandbox.data import TaskData
from envs.sandbox.folders import sweep
from envs.sandbox.installed import install
from envs.sandbox.packages import OwnPackages, Packages

__all__ = [
    "Room", "RunResult", "Sandbox", "SandboxFailure", "SandboxPool", "install", "require", "require_serves", "room_of",
]  # fmt: skip

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
STARTERS = 4
"""At least so many sandboxes start at the same time: part of a start is waiting."""


class SandboxPool:
    """Thread-safe pool of warm sandboxes of one backend."""

    def __init__(
        self, backend: str = "auto", image: str = "", warm: int = 1, packages: str = "base", patience: float = 0.0,
        requirements: str = "", bundled_data: bool = False,
    ):  # fmt: skip
        """warm: most idle sandboxes that are kept, those used last; 0: as many as are expected.

        patience: seconds that a backend which started sandboxes before, and does not now, is asked again;
        packages: what experiments can import, `base` or `torch`, with more of this environment as `base,NAME`;
        requirements: a list of what they can import instead, installed now if it is not (`envs.sandbox.installed`);
        bundled_data: they find the data sets that these bundle, as no task may (`envs.sandbox.packages`).

        Raises:
            SandboxFailure: the backend does not work here, or not with these packages.
        """
        sweep()
        self.packages: Packages = install(requirements) if requirements else OwnPackages(packages)
        self._backend = _choose(backend, image, self.packages, bundled_data)
        self.name, self.image, self.maps_root = self._backend.name, self._backend.image, self._backend.maps_root
        self._warm, self._patience, self._worked = warm, patience, False
        self._data = TaskData()
        self._free = list(range(UIDS_PER_PROCESS))[::-1]
        self._idle: list[Sandbox] = []
        self._expected: dict[Kind, int] = {}
        self._there: collections.Counter[Kind] = collections.Counter()
        self._coming: collections.Counter[Kind] = collections.Counter()
        self._changed = threading.Condition()
        self._starters = ThreadPoolExecutor(max(STARTERS, os.cpu_count() or 0), thread_name_prefix="sandbox-start")
        self._closed = self._lean = False
        self.starts = 0
        """Sandboxes started so far."""

    @property
    def idle(self) -> int:
        """Sandboxes that are started and wait for an experiment."""
        return len(self._idle)

    def expect(self, at_once: Mapping[tuple[Limits, tuple[int, ...], Room], int]) -> None:
        """Keep so many sandboxes, in use or idle, for experiments with these limits, GPUs and room; returns at once."""
        expected: dict[Kind, int] = {}
        for of_kind, number in at_once.items():
            kind = kind_of(*of_kind)
            expected[kind] = max(number, expected.get(kind, 0))
        with self._changed:
            self._expected = expected
        self._settle()

    def spare(self, lean: bool) -> None:
        """Keep no idle sandboxes from now on, and start none ahead of need; or again as many as are expected."""
        with self._changed:
            self._lean = lean
        self._settle()

    @contextlib.contextmanager
    def acquire(self, task: Task, gpus: tuple[int, ...] = (), verifies: bool = False) -> Iterator[Sandbox]:
        """A sandbox that shows `task`, with its limits and the GPUs with these ids, for as long as the context lasts;
        verifies: it shows the task's tests as well.

        Raises:
            SandboxFailure: a new sandbox does not start, or the pool has been closed.
            TaskError: no sandbox of this backend serves the task.
        """
        require_serves(self.name, task)
        sandbox = self._take(task, kind_of(task.limits, gpus, room_of(task, verifies)))
        try:
            sandbox.serve(task)
            yield sandbox
        except BaseException as error:
            suspects = []
            if isinstance(error, SandboxFailure):
                with self._changed:
                    suspects, self._idle = self._idle, []
            self._end(sandbox, *suspects)
            self._settle()
            raise
        if sandbox.usable:
            with self._changed:
                self._idle.append(sandbox)
                self._changed.notify_all()
        else:
            self._end(sandbox)
        self._settle()

    def _take(self, task: Task, kind: Kind) -> Sandbox:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._coming[kind] or self._of(kind))
            if self._closed:
                raise SandboxFailure("the sandboxes have been closed")
            if fitting := self._of(kind):
                chosen = max(fitting, key=lambda sandbox: sandbox.fits(task))  # of equals the longest unused
                self._idle.remove(chosen)
                return chosen
            unused = self._idle.pop(0) if self._idle and not self._free else None
        if unused:
            self._end(unused)
        with self._changed:
            if not self._free:
                raise SandboxFailure(f"{UIDS_PER_PROCESS} sandboxes are in use at once: lower sandbox.cpus")
            slot = self._reserve(kind)
        return self._started(kind, slot)

    def _of(self, kind: Kind) -> list[Sandbox]:
        return [sandbox for sandbox in self._idle if sandbox.kind == kind]

    def _reserve(self, kind: Kind) -> int:
        self._there[kind] += 1
        return self._free.pop()

    def _release(self, kind: Kind, slot: int) -> None:
        with self._changed:
            self._there[kind] -= 1
            self._free.append(slot)

    def _settle(self) -> None:
        """Start what is expected and not there, and close what is idle beyond what is kept."""
        with self._changed:
            surplus = self._surplus()
            self._idle = [sandbox for sandbox in self._idle if sandbox not in surplus]
            missing = [kind for kind, number in self._expected.items() for _ in range(number - self._there[kind])]
            room = self._warm - self._there.total() if self._warm else len(self._free)
            missing = [] if self._lean else missing[: max(0, min(room, len(self._free)))]
            ahead = [(kind, self._reserve(kind)) for kind in missing]
            self._coming.update(missing)
        for kind, slot in ahead:
            self._starters.submit(self._start_ahead, kind, slot)
        self._end(*surplus)

    def _surplus(self) -> list[Sandbox]:
        """Idle sandboxes that are not kept: the longest unused, or all but one of those that nobody expects."""
        if self._closed or self._lean:
            return self._idle
        if self._warm:
            return self._idle[: max(0, len(self._idle) - self._warm)]
        beyond, surplus = self._there - collections.Counter(self._expected), []
        for sandbox in self._idle:
            if beyond[sandbox.kind] > 0:
                beyond[sandbox.kind] -= 1
                surplus.append(sandbox)
        return surplus[:-1]

    def _start_ahead(self, kind: Kind, slot: int) -> None:
        sandbox = None
        try:
            sandbox = self._started(kind, slot)
        except SandboxFailure as reason:  # the experiment that needs it starts its own, or is told
            log.warning("a sandbox did not start ahead of need: %s", reason)
        finally:
            with self._changed:
                self._coming[kind] -= 1
                if sandbox and not self._closed:
                    self._idle.append(sandbox)
                    sandbox = None
                self._changed.notify_all()
        if sandbox:
            self._end(sandbox)

    def _started(self, kind: Kind, slot: int) -> Sandbox:
        end = time.monotonic() + self._patience
        try:
            while True:
                try:
                    sandbox = Sandbox(self._backend, self._data, kind, slot)
                except LastingFailure:
                    raise
                except SandboxFailure as reason:
                    if not self._worked or self._closed or time.monotonic() > end:
                        raise
                    log.warning("asking again for a sandbox: %s", reason)
                    time.sleep(RETRY_SECONDS)
                else:
                    self._worked = True
                    self.starts += 1
                    return sandbox
        except BaseException:
            self._release(kind, slot)
            raise

    def _end(self, *sandboxes: Sandbox) -> None:
        for sandbox in sandboxes:
            try:
                sandbox.close()
            finally:
                self._release(sandbox.kind, sandbox.slot)

    def close(self) -> None:
        """Close the idle sandboxes now, and those in use as soon as they are given back."""
        with self._changed:
            self._closed, self._expected = True, {}
            self._changed.notify_all()
        self._starters.shutdown(cancel_futures=True)
        self._settle()
        self._data.close()


def require(name: str) -> str:
    """Refuse a backend that does not answer on this machine, in a moment: no image is looked for, no sandbox started.

    Returns the name of the one that does, of `auto` the strongest.

    Raises:
        SandboxFailure: it does not work here, or none does (`auto`).
    """
    from envs.sandbox import docker, gvisor, process

    answers: dict[str, Callable[[], object]] = {
        "docker": docker.engine, "gvisor": gvisor.GvisorBackend, "process": process.ProcessBackend,
    }  # fmt: skip
    reasons = []
    for candidate in answers if name == "auto" else [name]:
        try:
            answers[candidate]()
            return candidate
        except SandboxFailure as error:
            reasons.append(error)
    raise SandboxFailure("; ".join(map(str, reasons))) from reasons[-1]


def require_serves(backend: str, task: Task) -> None:
    """Refuse a task whose experiments have an image of their own where there are no images.

    Raises:
        TaskError: says what to set.
    """
    if task.verifier and task.verifier.build and backend != "docker":
        raise TaskError(
            f"task {task.id} runs in an image of its own, which the {backend} sandbox has not: choose the docker "
            "sandbox (sandbox.backend=docker), with a Docker Engine that answers"
        )


def _choose(name: str, image: str, packages: Packages, bundled_data: bool) -> Backend:
    """The backend of that name; `auto` is the strongest that works here.

    Raises:
        SandboxFailure: it does not work here, or none does.
    """
    from envs.sandbox.docker import DockerBackend
    from envs.sandbox.gvisor import GvisorBackend
    from envs.sandbox.process import ProcessBackend

    backends: dict[str, Callable[[], Backend]] = {
        "docker": lambda: DockerBackend(image, packages, bundled_data),
        "gvisor": lambda: GvisorBackend(packages, bundled_data),
        "process": lambda: ProcessBackend(packages, bundled_data),
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
            _tell(f"experiments run in the {candidate} sandbox, {reason}")
        return chosen
    raise SandboxFailure("no sandbox works here; " + "; ".join(reasons))


@functools.cache
def _tell(note: str) -> None:
    """Once, however many sandboxes follow."""
    log.warning(note)
