"""Sandbox hosts: Ray actors that run the experiments of all actors on nodes of their own, so that nodes with GPUs need
no cores for experiments.

Invariants: an experiment that ran when its host was lost is run once more, on another host where there is one, while
nothing else runs there; if that host is lost too, the experiment was what ended it, and is run no more. So a script
that ends hosts ends two, and none is blamed that did not have a host alone. What only stood in the line of a lost host
is under no suspicion; what nobody waits for any more does not begin. Ray starts a lost host again; every wait for one
has a deadline; after `Hosts.close` no sandbox is left.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayTaskError

from actors.runtime.metrics import MeteredRunner, Metrics
from actors.runtime.placement import Anywhere, Apart
from actors.runtime.remote import DEATHS
from envs.admission import Capacity, Late
from envs.experiments import SandboxRunner
from envs.records import Commands, Durations, Experiment, Outcome, Task
from envs.sandbox import SandboxFailure, SandboxPool
from envs.workspace import Files, SnapshotStore

AT_ONCE = 256
"""Experiments that one host knows of, running or in its line; further ones wait in Ray."""
TRIES, TRIES_AFTER_A_LOSS = 2, 3
"""One more for what has lost a host: it can lose the next one while it waits there."""
ANSWER_SECONDS = 30.0
"""By which the clocks of two nodes may differ, and what a host says may be late."""
CLOSE_SECONDS = 30.0
BLAMED = "stopped: it ended the machine that ran it, which ran nothing else (too much memory, as a rule)"


class HostLost(SandboxFailure):
    """The host's process, or its node, has ended, and nobody had asked for it."""


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
    """Runs experiments on one node, with `sandbox.cpus` cores, `sandbox.memory_gb` of memory, and `sandbox.gpus`."""

    def __init__(self, name: str, cfg: Any):
        self._name, sandbox = name, cfg.sandbox
        capacity = Capacity(sandbox.cpus, sandbox.memory_gb * 1024, tuple(sandbox.gpus))
        self._runner = local_runner(cfg, name, capacity, snapshot_store(cfg, Path(cfg.run.dir, cfg.run.name)))

    def __repr__(self) -> str:  # Ray's dashboard shows it
        return f"{self._name}: experiments of all actors"

    @ray.method(max_task_retries=-1)
    def about(self) -> tuple[str, str]:
        """The sandbox's name and image; of a host that is lost, once Ray has started it again."""
        return self._runner.name, self._runner.image

    def run(self, until: float, alone: bool, task: Task, files: Files, *command: str) -> Iterator[Any]:
        """As `SandboxRunner.begin`; until: when the asker gives up (Unix time) where it has not begun."""
        patience = until - time.time()
        try:
            if patience <= 0:
                raise Late
            yield from self._runner.begin(task, files, *command, alone=alone, patience=patience)
        except Late:
            raise _late(self._name) from None

    def expect(self, tasks: Iterable[Task]) -> None:
        """Get ready for experiments of these tasks."""
        self._runner.expect(tasks)

    def close(self) -> None:
        self._runner.close()


class Hosts:
    """The driver's handle on `sandbox.hosts` hosts; they start when it is made."""

    def __init__(self, cfg: Any):
        sandbox = cfg.sandbox
        cpus, memory = sandbox.cpus, int(sandbox.memory_gb * 2**30)
        # Each gives out all cards of its node, so that two there would give out each of them twice.
        self._places = (
            Apart(sandbox.hosts, {"CPU": cpus, "memory": memory}, sandbox.node)
            if sandbox.gpus
            else Anywhere(sandbox.node)
        )
        options = {"num_cpus": cpus, "memory": memory, "max_concurrency": AT_ONCE, "max_restarts": -1}
        self._hosts = [
            ray.remote(Host)
            .options(name=name, **options, **self._places.options(number))
            .remote(name.rpartition("/")[2], cfg)
            for number, name in enumerate(_names(cfg))
        ]

    def close(self) -> None:
        """End the sandboxes, then the processes."""
        ray.wait([host.close.remote() for host in self._hosts], num_returns=len(self._hosts), timeout=CLOSE_SECONDS)
        for host in self._hosts:
            ray.kill(host)
        self._places.close()


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
        """As every `Runner`; it waits in line for at most `actors.deadline` and what two of its like may take."""
        return self._asked(task, dict(files)) or Experiment(Outcome.OUT_OF_MEMORY, None, BLAMED, Durations())

    def shell(self, task: Task, files: Files, command: str) -> Commands:
        return self._asked(task, dict(files), command) or Commands(Outcome.OUT_OF_MEMORY, BLAMED)

    def _asked(self, task: Task, *what: Any) -> Any:
        """What a host answers; None where it ended the host that it had alone."""
        tried: list[str] = []
        lost = suspected = False
        seconds = self._deadline + task.limits.seconds
        line = seconds + task.limits.seconds  # behind one that is tried alone, which waits for what runs
        while True:
            with self._taken(tried) as name:
                begun = False
                try:
                    if tried:  # it may be on its way back
                        self._answer(name, self._hosts[name].about.remote(), self._deadline)
                    steps = self._hosts[name].run.remote(time.time() + line, suspected, task, *what)
                    self._answer(name, self._next(name, steps, line + ANSWER_SECONDS), seconds)
                    begun = True
                    return self._answer(name, self._next(name, steps, seconds), seconds)
                except SandboxFailure as failure:
                    if isinstance(failure, HostLost):
                        if suspected and begun:
                            return None
                        lost, suspected = True, suspected or begun
                    tried.append(name)
                    if len(tried) == (TRIES_AFTER_A_LOSS if lost else TRIES):
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
    def _next(name: str, steps: ray.ObjectRefGenerator, seconds: float) -> ray.ObjectRef:
        if not ray.wait([steps], timeout=seconds)[0]:
            raise _late(name)
        return next(steps)

    @staticmethod
    def _answer(name: str, asked: ray.ObjectRef, seconds: float) -> Any:
        try:
            return ray.get(asked, timeout=seconds)
        except GetTimeoutError as error:
            raise _late(name) from error
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


def _late(name: str) -> SandboxFailure:
    return SandboxFailure(f"sandbox host {name} does not come to it: raise sandbox.hosts, or actors.deadline")


def _names(cfg: Any) -> list[str]:
    return [f"{cfg.run.name}/sandbox-{number}" for number in range(cfg.sandbox.hosts)]
