"""A real run of learner/main.py in a process of its own, for the tests that look at it from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
MARK = "MLAGENT_TEST_RUN"
"""Environment variable that every process of a run inherits: how leftovers are found."""


def engine_answers() -> bool:
    return subprocess.run(["docker", "info"], capture_output=True).returncode == 0


def start(run_dir: Path, model: Path | str, *arguments: str) -> subprocess.Popen:
    """Start a run of the configuration `smoke` in `run_dir`/smoke."""
    command = [
        sys.executable, "learner/main.py", "config=smoke", f"run.dir={run_dir}", f"model.path={model}",
        "tasks.held_in=[wine]", "tasks.held_out=[iris_petal]",
        f"sandbox.backend={'docker' if engine_answers() else 'process'}", *arguments,
    ]  # fmt: skip
    said = (run_dir.parent / f"{run_dir.name}.output").open("w")
    environment = {**os.environ, MARK: str(run_dir), "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT)


def output(run_dir: Path) -> str:
    """What the last run said."""
    return (run_dir.parent / f"{run_dir.name}.output").read_text()


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
