"""Sandbox hosts: Ray actors that run the experiments of all actors on nodes of their own, so that nodes with GPUs need
no cores for experiments.

Invariants: an experiment whose host is lost is run once more, on another host where there is one, while nothing else
runs there; if that host is lost too, the experiment was what ended it, and is run no more: so one script takes two
hosts along at most, and no experiment is blamed for another. Ray starts a lost host again; every wait for a host has a
deadline; after `Hosts.close` no sandbox is left.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayTaskError

from actors.runtime.metrics import MeteredRunner, Metrics
from actors.runtime.placement import on_node
from actors.runtime.remote import DEATHS
from envs.admission import Capacity
from envs.experiments import SandboxRunner
from envs.records import Commands, Durations, Experiment, Outcome, Task
from envs.sandbox import SandboxFailure, SandboxPool
from envs.workspace import Files, SnapshotStore

AT_ONCE = 256
"""Experiments that one host knows of, running or in its line; further ones wait in Ray."""
TRIES, SUSPECTED_TRIES = 2, 3
"""One more for what may have ended a host: it can lose the next one while it waits to be alone there."""
CLOSE_SECONDS = 30.0
BEGUN = "begun"
BLAMED = "stopped: it ended the machine that ran it, which ran nothing else (too much memory, as a rule)"


class HostLost(SandboxFailure):
    """The host's process, or its node, has ended, and nobody had asked for it."""


class Gate:
    """Lets calls through beside each other, or one alone."""

    def __init__(self) -> None:
        self._inside, self._closed = 0, False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._closed = True
            self._changed.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()


def snapshot_store(cfg: Any, run_dir: str | Path) -> SnapshotStore:
    """Where the states of a run are, for all of its actors."""
    return SnapshotStore(cfg.sandbox.snapshots or Path(run_dir) / "snapshots")


def local_runner(cfg: Any, name: str, capacity: Capacity, snapshots: SnapshotStore) -> MeteredRunner:
    """What runs experiments on this node; name: of the actor that does, for the metrics.

    Raises:
        SandboxFailure: the sandbox of `sandbox.backend` does not work here.
    """
    sandbox = cfg.sandbox
    pool = SandboxPool(
        sandbox.backend, sandbox.image, sandbox.warm, sandbox.packages, sandbox.patience, sandbox.requirements
    )
    runner = SandboxRunner(pool, capacity, cfg.run.seed, snapshots)
    return MeteredRunner(runner, Metrics(cfg.run.name, by=name), lambda: pool.idle)


class Host:
    """Runs experiments on one node, with `sandbox.cpus` cores and `sandbox.memory_gb` of memory."""

    def __init__(self, name: str, cfg: Any):
        self._name, sandbox = name, cfg.sandbox
        capacity = Capacity(sandbox.cpus, sandbox.memory_gb * 1024, tuple(sandbox.gpus))
        self._runner = local_runner(cfg, name, capacity, snapshot_store(cfg, Path(cfg.run.dir, cfg.run.name)))
        self._gate = Gate()

    def __repr__(self) -> str:  # Ray's dashboard shows it
        return f"{self._name}: experiments of all actors"

    @ray.method(max_task_retries=-1)
    def about(self) -> tuple[str, str]:
        """The sandbox's name and image; of a host that is lost, once Ray has started it again."""
        return self._runner.name, self._runner.image

    def run(self, *what: Any) -> Experiment | Commands:
        """What: task and files, or task, files and commands."""
        with self._gate.beside():
            return self._run(*what)

    def run_alone(self, *what: Any) -> Iterator[str | Experiment | Commands]:
        """As `run`; says first that it has begun."""
        with self._gate.alone():
            yield BEGUN
            yield self._run(*what)

    def _run(self, task: Task, files: Files, *command: str) -> Experiment | Commands:
        return self._runner.shell(task, files, *command) if command else self._runner.run(task, files)

    def expect(self, tasks: Iterable[Task]) -> None:
        """Get ready for experiments of these tasks."""
        self._runner.expect(tasks)

    def close(self) -> None:
        self._runner.close()


class Hosts:
    """The driver's handle on `sandbox.hosts` hosts; they start when it is made."""

    def __init__(self, cfg: Any):
        sandbox = cfg.sandbox
        options = {
            "num_cpus": sandbox.cpus, "memory": int(sandbox.memory_gb * 2**30), "max_concurrency": AT_ONCE,
            "max_restarts": -1, **on_node(sandbox.node),
        }  # fmt: skip
        host = ray.remote(Host)
        self._hosts = [host.options(name=name, **options).remote(name.rpartition("/")[2], cfg) for name in _names(cfg)]

    def close(self) -> None:
        """End the sandboxes, then the processes."""
        ray.wait([host.close.remote() for host in self._hosts], num_returns=len(self._hosts), timeout=CLOSE_SECONDS)
        for host in self._hosts:
            ray.kill(host)


class HostedRunner:
    """A `Runner` whose experiments run on the hosts, on the one that has the fewest of this runner's."""

    def __init__(self, cfg: Any):
        """Finds the hosts, and waits until they have started.

        Raises:
            SandboxFailure: a host does not start; the message names it.
        """
        self.seed, self._deadline = cfg.run.seed, cfg.actors.deadline
        self._hosts = {name: ray.get_actor(name) for name in _names(cfg)}
        answers = [self._answer(name, host.about.remote(), self._deadline) for name, host in self._hosts.items()]
        self.name, self.image = f"{answers[0][0]} (on {len(answers)} hosts)", answers[0][1]
        self._running: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    @property
    def running(self) -> int:
        return self._running.total()

    def run(self, task: Task, files: Files) -> Experiment:
        """As every `Runner`; an experiment waits in line for at most `actors.deadline`."""
        return self._asked(task, dict(files)) or Experiment(Outcome.OUT_OF_MEMORY, None, BLAMED, Durations())

    def shell(self, task: Task, files: Files, command: str) -> Commands:
        return self._asked(task, dict(files), command) or Commands(Outcome.OUT_OF_MEMORY, BLAMED)

    def _asked(self, task: Task, *what: Any) -> Any:
        """What a host answers; None where it ended the host that it had alone."""
        tried: list[str] = []
        suspected = False
        seconds = self._deadline + task.limits.seconds
        while True:
            with self._taken(tried) as name:
                begun = False
                try:
                    if not suspected:
                        return self._answer(name, self._hosts[name].run.remote(task, *what), seconds)
                    self._answer(name, self._hosts[name].about.remote(), self._deadline)
                    answers = self._hosts[name].run_alone.remote(task, *what)
                    begun = self._answer(name, self._next(name, answers, seconds), seconds) == BEGUN
                    return self._answer(name, self._next(name, answers, seconds), seconds)
                except SandboxFailure as failure:
                    if begun and isinstance(failure, HostLost):
                        return None
                    suspected |= isinstance(failure, HostLost)
                    tried.append(name)
                    if len(tried) == (SUSPECTED_TRIES if suspected else TRIES):
                        raise

    @contextlib.contextmanager
    def _taken(self, tried: Sequence[str]) -> Iterator[str]:
        """The host with the fewest experiments, one that was not tried if there is one."""
        with self._lock:
            name = min(self._hosts, key=lambda name: (tried.count(name), self._running[name]))
            self._running[name] += 1
        try:
            yield name
        finally:
            with self._lock:
                self._running[name] -= 1

    @staticmethod
    def _next(name: str, answers: ray.ObjectRefGenerator, seconds: float) -> ray.ObjectRef:
        if not ray.wait([answers], timeout=seconds)[0]:
            ray.cancel(answers)
            raise _late(name, seconds)
        return next(answers)

    @staticmethod
    def _answer(name: str, asked: ray.ObjectRef, seconds: float) -> Any:
        try:
            return ray.get(asked, timeout=seconds)
        except GetTimeoutError as error:
            ray.cancel(asked)
            raise _late(name, seconds) from error
        except DEATHS as error:
            kind = SandboxFailure if getattr(error, "preempted", False) else HostLost
            raise kind(f"sandbox host {name} was lost: {str(error).splitlines()[0]}") from error
        except RayTaskError as error:
            raise error.cause from error

    def expect(self, tasks: Iterable[Task]) -> None:
        for host in self._hosts.values():
            host.expect.remote(list(tasks))

    def resize(self, capacity: Capacity) -> None:
        """Hosts have what the configuration says, however many actors there are."""

    def close(self) -> None:
        """The hosts are others' too: the driver ends them."""


def _late(name: str, seconds: float) -> SandboxFailure:
    return SandboxFailure(f"sandbox host {name} did not answer in {seconds:g} s: raise sandbox.hosts")


def _names(cfg: Any) -> list[str]:
    return [f"{cfg.run.name}/sandbox-{number}" for number in range(cfg.sandbox.hosts)]
