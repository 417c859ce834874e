"""Sandbox hosts: Ray actors that run the experiments of all actors on nodes of their own, so that nodes with GPUs need
no cores for experiments.

Invariants: an experiment whose host is lost is run once more, on another host where there is one; Ray starts a lost
host again; every wait for a host has a deadline; after `Hosts.close` no sandbox is left.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayTaskError

from actors.runtime.metrics import MeteredRunner, Metrics
from actors.runtime.placement import on_node
from actors.runtime.remote import DEATHS
from envs.admission import Capacity
from envs.experiments import SandboxRunner
from envs.records import Commands, Experiment, Task
from envs.sandbox import SandboxFailure, SandboxPool
from envs.workspace import Files, SnapshotStore

AT_ONCE = 256
"""Experiments that one host knows of, running or in its line; further ones wait in Ray."""
TRIES = 2
CLOSE_SECONDS = 30.0


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

    def __repr__(self) -> str:  # Ray's dashboard shows it
        return f"{self._name}: experiments of all actors"

    def about(self) -> tuple[str, str]:
        """The sandbox's name and image."""
        return self._runner.name, self._runner.image

    def run(self, task: Task, files: Files) -> Experiment:
        return self._runner.run(task, files)

    def shell(self, task: Task, files: Files, command: str) -> Commands:
        return self._runner.shell(task, files, command)

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
        return self._asked(task, lambda host: host.run.remote(task, dict(files)))

    def shell(self, task: Task, files: Files, command: str) -> Commands:
        return self._asked(task, lambda host: host.shell.remote(task, dict(files), command))

    def _asked(self, task: Task, ask: Callable[[Any], ray.ObjectRef]) -> Any:
        tried: list[str] = []
        while True:
            with self._taken(tried) as name:
                call = ask(self._hosts[name])
                try:
                    return self._answer(name, call, self._deadline + task.limits.seconds)
                except SandboxFailure:
                    tried.append(name)
                    if len(tried) == TRIES:
                        raise

    @contextlib.contextmanager
    def _taken(self, tried: Sequence[str]) -> Iterator[str]:
        """The host with the fewest experiments, one that was not tried if there is one."""
        with self._lock:
            name = min(self._hosts, key=lambda name: (name in tried, self._running[name]))
            self._running[name] += 1
        try:
            yield name
        finally:
            with self._lock:
                self._running[name] -= 1

    @staticmethod
    def _answer(name: str, asked: ray.ObjectRef, seconds: float) -> Any:
        try:
            return ray.get(asked, timeout=seconds)
        except GetTimeoutError as error:
            ray.cancel(asked)
            raise SandboxFailure(f"sandbox host {name} did not answer in {seconds:g} s: raise sandbox.hosts") from error
        except DEATHS as error:
            raise SandboxFailure(f"sandbox host {name} was lost: {str(error).splitlines()[0]}") from error
        except RayTaskError as error:
            raise error.cause from error

    def expect(self, tasks: Iterable[Task]) -> None:
        for host in self._hosts.values():
            host.expect.remote(list(tasks))

    def resize(self, capacity: Capacity) -> None:
        """Hosts have what the configuration says, however many actors there are."""

    def close(self) -> None:
        """The hosts are others' too: the driver ends them."""


def _names(cfg: Any) -> list[str]:
    return [f"{cfg.run.name}/sandbox-{number}" for number in range(cfg.sandbox.hosts)]
