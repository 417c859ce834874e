"""A run on four hosts with addresses of their own: head, learner and two with an actor each, of which one is cut off.

After a minute it is plugged in again, and its Ray node is started again as an operator would. In between the other
actor carries on, and whatever the lost one had begun is done by others: each group is trained once.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from learner.run import transitions
from tests.chaos.network import Network, missing
from tests.main_job import MARK, ROOT, leftovers, output, require_trained, wait_until

pytestmark = pytest.mark.long

STATES, ACTIONS = 2, 4
PORT = 6379
CUT_SECONDS = 60
FIRST = {"actor-0", "actor-1"}
JOIN_SECONDS = 90
STARTED = "will now block forever"
"""What `ray start --block` says when its node has joined."""
RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    if reason := missing():
        pytest.skip(f"NOT TESTED, several hosts: {reason}")
    with Network() as made:
        yield made


class Cluster:
    """Ray nodes on the hosts of a network."""

    def __init__(self, network: Network, folder: Path, mark: Path):
        self.network, self._folder = network, folder
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self.environment = {
            **os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), MARK: str(mark),
            "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "eth0",
            "RAY_health_check_timeout_ms": "3000",  # by default a node is only given up when the minute is over
        }  # fmt: skip
        self.environment.pop("RAY_ADDRESS", None)
        self._addresses: dict[str, str] = {}

    @property
    def address(self) -> str:
        return f"{self._addresses['head']}:{PORT}"

    def node(self, host: str, *arguments: str) -> None:
        """Start a node on a host, and wait until it is one of the cluster's."""
        if host not in self._addresses:
            self._addresses[host] = self.network.add(host)
        where = (
            ["--head", f"--port={PORT}", "--include-dashboard=false"]
            if host == "head"
            else [f"--address={self.address}"]
        )
        command = [
            RAY, "start", "--block", "--disable-usage-stats", f"--node-ip-address={self._addresses[host]}",
            f"--temp-dir={self._folder}/{host}", *where, *arguments,
        ]  # fmt: skip
        with (self._folder / f"{host}.log").open("a") as log:
            before = self.log(host).count(STARTED)
            process = self.network.start(
                host, command, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        end = time.monotonic() + JOIN_SECONDS
        while self.log(host).count(STARTED) == before:
            assert process.poll() is None and time.monotonic() < end, self.log(host)
            time.sleep(0.5)

    def log(self, host: str) -> str:
        return (self._folder / f"{host}.log").read_text()


def steps(run_dir: Path) -> int:
    file = run_dir / "smoke/metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def actors(run_dir: Path) -> set[str]:
    """Those whose transitions were trained on."""
    return {row["actor_id"] for row in transitions.read(run_dir / "smoke", columns=["actor_id"])}


@pytest.fixture(scope="module")
def run_dir(network, tiny_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hosts")
    runs = folder / "runs"
    runs.mkdir()
    cluster = Cluster(network, folder, runs)
    cluster.node("head", "--num-cpus=0")
    cluster.node("learner", "--num-cpus=1", "--labels=role=learner")
    for host in ("one", "two"):
        cluster.node(host, "--num-cpus=1", "--labels=role=actor")
    command = [
        sys.executable, "learner/main.py", "config=smoke", f"run.dir={runs}", f"model.path={tiny_model}",
        "tasks.held_in=[wine]", "tasks.held_out=[]", "sandbox.backend=process", "rl.steps=9999", f"rl.states={STATES}",
        f"rl.actions={ACTIONS}", "actors.count=2", "actors.heartbeat=10", "learner.node=role=learner",
        "actors.node=role=actor", "checkpoint.every=50",
        "rl.max_staleness=3",  # so that each actor has begun groups whenever it is cut off
    ]  # fmt: skip
    said = (folder / "runs.output").open("w")
    process = network.start(
        "head", command, cwd=ROOT, env={**cluster.environment, "RAY_ADDRESS": cluster.address}, stdout=said,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        wait_until(lambda: steps(runs) >= 3, 240, process)
        before = steps(runs)
        network.cut_off("two")
        time.sleep(CUT_SECONDS)
        assert steps(runs) > before, output(runs)
        network.plug_in("two")
        wait_until(lambda: not any("raylet" in one.name() for one in network.processes("two")), 90, process)
        cluster.node("two", "--num-cpus=1", "--labels=role=actor")
        wait_until(lambda: "and joins" in output(runs), 120, process)
        wait_until(lambda: actors(runs) - FIRST, 120, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130, output(runs)
    finally:
        process.kill()
    return runs


def test_every_group_is_accounted_for_at_every_step(run_dir):
    rows = [json.loads(line) for line in (run_dir / "smoke/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["stream_trained"] for row in rows] == [row["step"] * STATES for row in rows]
    given_back = [
        int(count) for count in re.findall(r"replaced by actor-\d+, (\d+) groups go to others", output(run_dir))
    ]
    assert sum(given_back) > 0, "the actor that was cut off had begun nothing: " + output(run_dir)[-2000:]


def test_no_group_is_trained_twice_or_in_part(run_dir):
    rows = list(transitions.read(run_dir / "smoke", columns=["id", "group_id"]))
    assert len({row["id"] for row in rows}) == len(rows) == steps(run_dir) * STATES * ACTIONS
    assert len({row["group_id"] for row in rows}) == steps(run_dir) * STATES
    assert actors(run_dir) > FIRST, "the actor that joined did nothing"
    require_trained(run_dir / "smoke")


def test_nothing_of_the_run_is_left_on_any_host(run_dir):
    of_run = ("ray::Actor", "ray::LearnerRank", "ray::Stream", "VLLM", "Runs inside a sandbox")
    assert [line for line in leftovers(run_dir, 30) if any(name in line for name in of_run)] == []
