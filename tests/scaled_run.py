"""What tests/e2e/test_scaling.py runs: `python -m tests.scaled_run FOLDER`; starts and ends a cluster of its own.

It is a process of its own, since Ray reads its token when it is imported. Pool, stream, scaler and `cluster.scale` are
real, on real Ray nodes of this machine, which `Nodes` adds and ends as an autoscaler would; the actors stand at the
border and sleep in the place of engines and experiments, for as long as a file says.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import ray
from omegaconf import OmegaConf
from ray.cluster_utils import Cluster

from actors.pool import ActorPool
from actors.remote import place
from cluster.scale import ScaleError, scale
from envs.records import State
from learner.config import Config
from learner.scaling import Scaler
from learner.states import StatePool
from learner.stream import Cursor, Stream

STATES, SECONDS = 4, 90.0
LEARNER_SECONDS = 0.05


class Sleeper:
    """What the pool asks of an actor, without engine and sandboxes."""

    def __init__(self, name: str, cfg: Any, tasks: list, model_dir: str, run_dir: str, version: int):
        self._name, self._pace, self._version = name, Path(run_dir) / "pace", version

    async def start(self) -> dict[str, Any]:
        node = ray.get_runtime_context().get_node_id()
        return {"sandbox": "none", "host": "here", "node": node, "pid": os.getpid()}

    async def share(self, count: int, position: int) -> None: ...

    async def catch_up(self, m_init: dict, version: int, buckets: list) -> int:
        self._version = version
        return version

    async def receive(self, version: int, buckets: list) -> None:
        self._version = version

    async def status(self) -> dict[str, int]:
        return {"generating": 0, "experiments": 1, "tokens": 0, "version": self._version}

    async def collect(self, stream: Any) -> None:
        await asyncio.gather(*(self._collect(stream) for _ in range(2)))

    async def _collect(self, stream: Any) -> None:
        ticket = await stream.admit.remote(self._name)
        while ticket:
            await asyncio.sleep(float(self._pace.read_text()))
            ticket = await stream.exchange.remote(self._name, ticket.group_id, pickle.dumps(ticket.group_id))

    async def close(self) -> None: ...


class Nodes:
    """A head without cores, and a node of two cores for each actor that is wanted."""

    def __init__(self) -> None:
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self.address = self._cluster.address
        self._workers: list[Any] = []

    def follow(self, wanted: int, in_use: set[str]) -> None:
        """in_use: ids of nodes with an actor."""
        while len(self._workers) < wanted:
            self._workers.append(self._cluster.add_node(num_cpus=2, wait=False))
        for node in [one for one in self._workers if one.node_id not in in_use][: len(self._workers) - wanted]:
            self._end(node, graceful=True)

    def lose(self, node_id: str) -> None:
        self._end(next(one for one in self._workers if one.node_id == node_id), graceful=False)

    def _end(self, node: Any, graceful: bool) -> None:
        self._workers.remove(node)
        self._cluster.remove_node(node, allow_graceful=graceful)

    def shutdown(self) -> None:
        self._cluster.shutdown()


class Run:
    """The loop of `learner/main.py` with a learner that sleeps."""

    def __init__(self, cfg: Any, folder: Path, nodes: Nodes):
        self.nodes = nodes
        nodes.follow(1, set())
        self.said: list[str] = []
        self.pool = ActorPool(cfg, [], "", str(folder), 0, self.said.append, list, kind=Sleeper)
        self.pool.started()
        here, states = place("ray"), StatePool([State("s", "t", "s")], 0)
        options = {"num_cpus": 0, "max_concurrency": 1000, **here.here()}
        self.stream = here.spawn(Stream, options, states, 0, 10**6, STATES, 1, 1, Cursor())
        self.scaler = Scaler(cfg, self.pool, self.said.append)
        self.pool.collect(self.stream)
        self.trained: list[str] = []

    def step(self) -> None:
        began, asked = time.monotonic(), self.stream.batch.remote()
        while not ray.wait([asked], timeout=0.2)[0]:
            self._look()
        self._look()
        self.trained += map(pickle.loads, ray.get(asked))
        waited = time.monotonic() - began
        time.sleep(LEARNER_SECONDS)
        ray.get(self.stream.advance.remote())
        self.scaler.step(waited, time.monotonic() - began, ray.get(self.stream.account.remote()))

    def _look(self) -> None:
        self.pool.check()
        self.scaler.look()
        self.nodes.follow(self.pool.wanted, {one.about["node"] for one in self.pool._members.values() if one.about})

    def until(self, condition) -> float:
        """Seconds until it holds."""
        began = time.monotonic()
        while not condition():
            self.step()
            assert time.monotonic() < began + SECONDS, self.said
        return time.monotonic() - began

    def alive(self) -> int:
        return self.pool.activity()["actors_alive"]


def nodes() -> int:
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())


def refusal(job: str, count: int) -> str:
    try:
        scale(job, count)
    except ScaleError as error:
        return str(error)
    raise AssertionError(f"{job} took {count}")


def main(folder: Path) -> None:
    there = Nodes()
    ray.init(address=there.address, log_to_driver=False)
    cfg, pace = OmegaConf.structured(Config), folder / "pace"
    cfg.run.name, cfg.actors.cpus, cfg.actors.max, cfg.actors.heartbeat = "scaled", 2.0, 4, 10.0
    cfg.rl.steps, cfg.rl.states, cfg.rl.actions, cfg.actors.sequences = 10**6, STATES, 1, 1
    cfg.actors.deadline = SECONDS
    pace.write_text("0.6")
    run, took = Run(cfg, folder, there), {}
    try:
        took["1 to 4 actors"] = run.until(lambda: run.alive() == 4)
        assert nodes() == 4

        lost = next(iter(run.pool._members.values()))
        there.lose(lost.about["node"])
        took["a node is lost"] = run.until(lambda: any(f"{lost.name} " in line for line in run.said))
        took["and made up for"] = run.until(lambda: run.alive() == 4)

        assert scale("scaled", 2) == 4
        took["2 asked for"] = run.until(lambda: run.alive() == 2 and len(run.pool._members) == 2)
        for _ in range(8):
            run.step()  # the learner waits all the while, but a person has the say
        assert run.alive() == 2 and run.pool.wanted == 2
        assert "actors.max=4" in refusal("scaled", 5)
        assert "there: scaled" in refusal("another", 1)

        assert scale("scaled", None) == 2
        pace.write_text("0.01")
        took["down to 1"] = run.until(lambda: run.alive() == 1)
        took["and 1 node"] = run.until(lambda: nodes() == 1)
        account = ray.get(run.stream.account.remote())
        assert account.started == account.trained + account.ready + account.in_flight + account.again
        assert len(run.trained) == len(set(run.trained)) == account.trained
    finally:
        print({what: f"{seconds:.0f} s" for what, seconds in took.items()}, *run.said, sep="\n")
        run.pool.close()
        ray.shutdown()
        there.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
