"""Sandbox hosts on a Ray cluster of several nodes: experiments run there, and a host that is lost costs none."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from actors.hosts import HostedRunner, Hosts
from envs.admission import AdmissionError
from envs.benchmarks.loader import load
from envs.records import Outcome
from envs.sandbox import SandboxFailure, SandboxPool
from learner.config.defaults import defaults


def add(cluster: Cluster, **of_node: Any) -> None:
    """A node. Ray gives each half a minute to start, which can be too little beside other tests: two are tried."""
    try:
        cluster.add_node(**of_node)
    except Exception as late:
        if "timed out during startup" not in str(late):
            raise
        cluster.add_node(**of_node)


@pytest.fixture(scope="module")
def cluster():
    try:
        SandboxPool("process").close()
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the process sandbox is not to be had: {reason}")
    cluster = Cluster()
    add(cluster, num_cpus=8, include_dashboard=False)
    for number in range(2):
        add(cluster, num_cpus=4, labels={"role": "sandbox", "number": str(number)})
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def hosted(cluster):
    cfg = defaults()
    cfg.sandbox.backend, cfg.sandbox.hosts, cfg.sandbox.node = "process", 2, "role=sandbox"
    cfg.sandbox.cpus, cfg.sandbox.memory_gb, cfg.actors.deadline = 1, 1, 60
    cfg.sandbox.gpus = [0]  # which no experiment here asks for: the hosts share no node
    hosts = Hosts(cfg)
    yield hosts, HostedRunner(cfg)
    hosts.close()


def test_hosts_that_have_cards_are_one_to_a_node_with_the_label_and_experiments_are_spread_over_them(hosted):
    hosts, runner = hosted
    task = load("wine")
    script = (task.env_dir / task.script).read_text()
    places = {ray.get(host.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_labels()["number"]))
              for host in hosts._hosts}  # fmt: skip
    assert places == {"0", "1"}
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda n: runner.run(task, {task.script: f"{script}\n# {n}"}), range(4)))
    assert [result.outcome for result in results] == [Outcome.EDITED] * 4
    assert runner.name == "process (on 2 hosts)" and runner.running == 0


def test_an_experiment_whose_host_dies_is_run_on_the_other_and_the_host_comes_back(hosted):
    hosts, runner = hosted
    task = load("wine")
    slow = f"import time; time.sleep(3)\n{(task.env_dir / task.script).read_text()}"
    pids = [ray.get(host.__ray_call__.remote(lambda _: os.getpid())) for host in hosts._hosts]
    threading.Timer(1.0, os.kill, (pids[0], signal.SIGKILL)).start()
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda n: runner.run(task, {task.script: f"{slow}\n# {n}"}), range(2)))
    assert [result.outcome for result in results] == [Outcome.EDITED] * 2
    came_back(hosts._hosts[0])


def came_back(host: Any) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            assert ray.get(host.about.remote(), timeout=60)[0] == "process"
            return
        except ray.exceptions.RayActorError:
            assert time.monotonic() < deadline, "the host did not come back"
            time.sleep(0.5)


class Fragile:
    """In the place of a host's runner: some scripts end the host, as one does that takes all of a pod's memory."""

    def __init__(self, runner: Any, record: Path):
        self._runner, self._record = runner, record

    def begin(self, task: Any, files: Any, **turn: Any) -> Any:
        steps = self._runner.begin(task, files, **turn)
        yield next(steps)
        name = files[task.script].rpartition("# ")[2]
        with self._record.open("a") as record:
            record.write(f"{name}{' alone' * turn['alone']}\n")
        if name == "takes all":
            time.sleep(1.0)
            os.kill(os.getpid(), signal.SIGKILL)
        yield next(steps)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


def test_a_script_that_ends_its_host_ends_one_more_and_those_in_its_line_are_under_no_suspicion(hosted, tmp_path):
    hosts, runner = hosted
    task, record = load("wine"), tmp_path / "begun"

    def make_fragile(host: Any) -> None:
        host._runner = Fragile(host._runner, record)

    for host in hosts._hosts:
        came_back(host)
        ray.get(host.__ray_call__.remote(make_fragile))
    script = (task.env_dir / task.script).read_text()
    scripts = ["# takes all", *(f"import time; time.sleep(1)\n{script}\n# blameless" for _ in range(7))]
    with ThreadPoolExecutor(len(scripts)) as threads:
        blamed, *others = threads.map(lambda text: runner.run(task, {task.script: text}), scripts)
    assert (blamed.outcome, blamed.score) == (Outcome.OUT_OF_MEMORY, None) and "ended the machine" in blamed.log
    assert [other.outcome for other in others] == [Outcome.EDITED] * 7
    begun = record.read_text().splitlines()
    assert [one for one in begun if one != "blameless"] == ["takes all", "takes all alone"]


def test_what_nobody_waits_for_any_more_does_not_begin(hosted):
    hosts, _ = hosted
    task = load("wine")
    steps = hosts._hosts[0].run.remote(time.time() - 1, False, task, {})
    with pytest.raises(SandboxFailure, match="sandbox-0 does not come to it"):
        ray.get(next(steps))


def test_what_a_host_raises_keeps_its_type(hosted):
    _, runner = hosted

    task = load("wine")
    large = dataclasses.replace(task, limits=dataclasses.replace(task.limits, memory_mb=10**6))
    with pytest.raises(AdmissionError, match="memory_mb"):
        runner.run(large, {})
