"""A real run of learner/main.py in a process of its own, for the tests that look at it from outside."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Collection
from itertools import groupby
from pathlib import Path

import psutil

from cluster import devices
from learner.run import transitions

ROOT = Path(__file__).resolve().parents[1]
MARK = "MLAGENT_TEST_RUN"
"""Environment variable that every process of a run inherits: how leftovers are found."""


PRECISION = devices.precision(platform.machine(), Path("/proc/cpuinfo").read_text())[0]
"""As of `make train`: with a vocabulary of 49,152 even a tiny model takes ten seconds a step in bfloat16 on a CPU that
has no such instructions."""


def engine_answers() -> bool:
    return subprocess.run(["docker", "info"], capture_output=True).returncode == 0


def start(
    run_dir: Path, model: Path | str, *arguments: str, config: str = "smoke", script: str = "learner/main.py"
) -> subprocess.Popen:
    """Start a run of that configuration in the folder of its name in `run_dir`."""
    command = [
        sys.executable, script, f"config={config}", f"run.dir={run_dir}", f"model.path={model}",
        "tasks.held_in=[wine]", "tasks.held_out=[iris_petal]",
        f"sandbox.backend={'docker' if engine_answers() else 'process'}", *PRECISION, *arguments,
    ]  # fmt: skip
    said = (run_dir.parent / f"{run_dir.name}.output").open("w")
    environment = {**os.environ, MARK: str(run_dir), "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT)


def output(run_dir: Path) -> str:
    """What the last run said."""
    return (run_dir.parent / f"{run_dir.name}.output").read_text()


def require_once(run: Path, states: int, actions: int) -> None:
    """Every group that was started was trained exactly once, as the journal tells."""
    rows = list(transitions.read(run, columns=["step", "id", "group_id"]))
    ids = [row["id"] for row in rows]
    assert len(ids) == len(set(ids))
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = len(told)
    assert [row["step"] for row in told] == list(range(1, steps + 1))
    assert {row["group_id"] for row in rows} == {f"group-{index:06d}" for index in range(steps * states)}
    assert len(ids) == steps * states * actions
    assert [row["stream_trained"] for row in told] == [row["step"] * states for row in told]


def require_trained(run: Path, masked: Collection[str] = ("infra_failure",)) -> None:
    """What was delivered is what the learner trained on: each transition of each step, and nothing else.

    An advantage is the learner's word that it got a transition, a loss that it was in the loss of the step. masked:
    outcomes that are left out.
    """
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    columns = ["step", "id", "group_id", "outcome", "reward", "response_ids", "advantage", "loss"]
    delivered = list(transitions.read(run, columns=columns, counted=["response_ids"]))
    assert [row["step"] for row in told] == list(range(1, len(told) + 1)) == sorted({row["step"] for row in delivered})
    for row, (_, of_step) in zip(told, groupby(delivered, key=lambda one: one["step"]), strict=True):
        counted = [one for one in of_step if one["outcome"] not in masked]
        assert row["train_tokens"] == sum(one["response_ids"] for one in counted)
        assert [one["id"] for one in counted if one["advantage"] is None] == []
        rewards: dict[str, set[float]] = {}
        for one in counted:
            rewards.setdefault(one["group_id"], set()).add(one["reward"])
        varying = [one for one in counted if len(rewards[one["group_id"]]) > 1]
        assert [one["id"] for one in varying if one["loss"] is None] == []
        assert not varying or row["loss"] is not None


def processes(run_dir: Path, title: str) -> list[int]:
    """Pids of the run's processes whose command line has `title`, oldest first."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(run_dir) and title in " ".join(process.cmdline()):
                found.append((process.create_time(), process.pid))
        except psutil.Error:
            continue
    return [pid for _, pid in sorted(found)]


def leftovers(run_dir: Path, seconds: float = 10.0) -> list[str]:
    """Processes and containers of the run that are still there; those that are about to end get some seconds to."""
    end = time.monotonic() + seconds
    while (found := _leftovers(run_dir)) and time.monotonic() < end:
        time.sleep(0.5)
    return found


def _leftovers(run_dir: Path) -> list[str]:
    found, pids = [], set()
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(run_dir) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:200])
                pids.add(process.pid)
        except psutil.Error:
            continue
    command = ["docker", "ps", "--filter", "label=mlagent", "--format", '{{.ID}} {{.Label "mlagent"}}']
    listed = subprocess.run(command, capture_output=True, text=True)
    containers = [line.split() for line in listed.stdout.splitlines()] if listed.returncode == 0 else []
    # Those of other runs on this machine have an owner that lives.
    return found + [name for name, owner in containers if int(owner) in pids or not psutil.pid_exists(int(owner))]


def wait_until(condition, seconds: float, process: subprocess.Popen) -> None:
    """Wait for the run of `process` to come so far; where it does not, say what it said last."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the run ended early with exit code {process.returncode}: {_last(process)}"
        assert time.monotonic() < deadline, f"the run did not come so far in {seconds:.0f} s: {_last(process)}"
        time.sleep(0.2)


def _last(process: subprocess.Popen) -> str:
    (run_dir,) = (one.removeprefix("run.dir=") for one in process.args if str(one).startswith("run.dir="))
    return output(Path(run_dir))[-4000:]
