"""What tests/e2e/test_scaling.py runs: `python -m tests.scaled_run FOLDER`; starts and ends a cluster of its own.

It is a process of its own, since Ray reads its token when it is imported. Pool, stream, scaler, `cluster.scale` and
Ray's autoscaler (v2, as under KubeRay) are real, the nodes are Ray nodes of this machine; the actors stand at the
border and sleep in the place of engines and experiments, for as long as a file says.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
    FakeMultiNodeProvider,
)

from actors.pool import ActorPool
from actors.runtime.remote import place
from cluster.scale import ScaleError, scale
from envs.records import State
from learner.config.defaults import defaults
from learner.stream.scaling import Scaler
from learner.stream.states import StatePool
from learner.stream.stream import Cursor, Stream

STATES, SECONDS = 4, 90.0
MOST = 4
"""Actors, and nodes."""
IDLE_MINUTES = 0.05
"""Until the autoscaler takes a node without actors back."""
LEARNER_SECONDS = 0.05


class Sleeper:
    """What the pool asks of an actor, without engine and sandboxes."""

    def __init__(self, name: str, cfg: Any, tasks: list, model_dir: str, run_dir: str, version: int):
        self._name, self._pace, self._version = name, Path(run_dir) / "pace", version

    async def start(self) -> dict[str, Any]:
        node = ray.get_runtime_context().get_node_id()
        return {"sandbox": "none", "host": "here", "node": node, "pid": os.getpid()}

    async def serve(self) -> dict[str, Any]:
        return {"engine_seconds": 0.0}

    async def share(self, count: int, position: int) -> None: ...

    async def catch_up(self, m_init: dict, version: int, buckets: list) -> int:
        self._version = version
        return version

    async def receive(self, version: int, buckets: list) -> float:
        self._version = version
        return 0.0

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


class Cluster:
    """A head without cores, to which Ray's autoscaler adds a node of two cores for each actor that finds no place.

    `ray.cluster_utils.AutoscalingCluster` would do, but ends every Ray on the machine.
    """

    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("", 0))
            self.address = f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"
        (folder / "autoscaler.json").write_text(json.dumps(self._autoscaler()))
        as_head = {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
        v2 = {"RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=0",
            f"--port={self.address.rpartition(':')[2]}", "--include-dashboard=false", "--disable-usage-stats",
            f"--autoscaling-config={folder / 'autoscaler.json'}",
        ]  # fmt: skip
        log = folder / "head.log"
        with log.open("w") as file:
            self._head = subprocess.Popen(command, env=os.environ | as_head | v2, stdout=file, stderr=file)
        while "Ray runtime started" not in log.read_text():
            assert self._head.poll() is None, log.read_text()
            time.sleep(0.2)

    def _autoscaler(self) -> dict[str, Any]:
        nodes = f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}"
        provider = {  # as an external one: its own type needs a file that Ray's wheel lacks
            "type": "external", "module": nodes, "disable_node_updaters": True,
            "gcs_address": self.address, "head_node_id": FAKE_HEAD_NODE_ID, "launch_multiple": True,
        }  # fmt: skip
        head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
        worker = {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": MOST}
        commands = ("setup", "initialization", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
        unused = (*(f"{when}_commands" for when in commands), "cluster_synced_files", "rsync_exclude", "rsync_filter")
        return {key: [] for key in unused} | {
            "cluster_name": "scaled", "provider": provider, "max_workers": MOST, "idle_timeout_minutes": IDLE_MINUTES,
            "head_node_type": FAKE_HEAD_NODE_TYPE, "auth": {}, "docker": {}, "file_mounts": {},
            "file_mounts_sync_continuously": False,
            "available_node_types": {FAKE_HEAD_NODE_TYPE: head, "actor": worker},
        }  # fmt: skip

    def shutdown(self) -> None:
        there = psutil.Process(self._head.pid).children(recursive=True)  # the autoscaler's nodes outlive the head
        self._head.terminate()
        self._head.wait()
        for process in psutil.wait_procs(there, timeout=5)[1]:
            process.kill()


class Run:
    """The loop of `learner/main.py` with a learner that sleeps."""

    def __init__(self, cfg: Any, folder: Path):
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
    there = Cluster(folder)
    try:
        follow(there.address, folder)
    finally:
        ray.shutdown()
        there.shutdown()


def follow(address: str, folder: Path) -> None:
    ray.init(address=address, log_to_driver=False)
    cfg, pace = defaults(), folder / "pace"
    cfg.run.name, cfg.actors.cpus, cfg.actors.max, cfg.actors.heartbeat = "scaled", 2.0, MOST, 10.0
    cfg.rl.steps, cfg.rl.states, cfg.rl.actions, cfg.actors.sequences = 10**6, STATES, 1, 1
    cfg.actors.deadline = SECONDS
    pace.write_text("0.6")
    run, took = Run(cfg, folder), {}
    try:
        took["1 to 4 actors"] = run.until(lambda: run.alive() == MOST)
        assert nodes() == MOST

        lost = next(iter(run.pool._members.values()))
        psutil.Process(lost.about["pid"]).parent().kill()  # its raylet, and the node with it
        took["a node is lost"] = run.until(lambda: any(f"{lost.name} " in line for line in run.said))
        took["and made up for"] = run.until(lambda: run.alive() == MOST)

        assert scale("scaled", 2) == MOST
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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
