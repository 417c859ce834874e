"""`ray job submit`, `logs` and `stop` as a user of any Ray cluster calls them, on a real run, and what it leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.head import Head
from cluster.quickstart import connect
from tests.main_job import MARK, PRECISION, ROOT, engine_answers, leftovers

SECRET_NAME, SECRET = "MLAGENT_TEST_KEY", "sk-5f0c1e9d7b3a4821"
STOP_SECONDS = 30
RAY = str(Path(sys.executable).with_name("ray"))
MOST_BYTES = 3_000_000
"""That may travel with a job."""
WEIGH = """
import json, pathlib
files = [file for file in pathlib.Path(".").rglob("*") if file.is_file()]
size, top = sum(file.stat().st_size for file in files), sorted({file.parts[0] for file in files})
print("WEIGHED", json.dumps([size, top]))
"""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head in whose environment is a secret, as an operator would put it on the nodes of a cluster."""
    before = dict(os.environ)
    os.environ[SECRET_NAME] = SECRET
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # an image has its Python there
    try:
        with Head() as started:
            connect(started)
            yield started
    finally:
        os.environ.clear()
        os.environ.update(before)


def called(head: Head, *command: str) -> subprocess.CompletedProcess:
    """A command on a machine that has the cluster's address and token."""
    environment = {
        **os.environ, "RAY_ADDRESS": head.dashboard, "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(head.token_file),
    }  # fmt: skip
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def ray(head: Head, *arguments: str) -> str:
    """What a `ray job` command prints."""
    done = called(head, RAY, "job", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_without_the_token_nothing_is_answered(head):
    for path in ("/api/jobs/", "/api/cluster_status", "/api/v0/tasks"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(head.dashboard + path, timeout=10)


def test_little_travels_with_a_job_and_all_that_it_needs(head):
    said = ray(head, "submit", "--working-dir", ".", "--", "python", "-c", WEIGH)
    size, top = json.loads(re.search(r"^WEIGHED (.*)$", said, re.MULTILINE).group(1))
    assert size < MOST_BYTES, f"{size} bytes: name what is not needed in .rayignore"
    assert {"actors", "cluster", "envs", "learner", "reward", "pyproject.toml", "requirements-cpu.txt"} <= set(top)
    assert not {"tests", "docs", "runs", ".venv", ".git"} & set(top), top


def test_the_doctor_examines_the_cluster_that_it_is_pointed_at(head, tiny_model, tmp_path):
    arguments = "config=smoke", f"model.path={tiny_model}", f"run.dir={tmp_path}", "sandbox.backend=process"
    done = called(head, sys.executable, "-m", "cluster.doctor", *arguments, "actors.cpus=64")
    assert done.returncode == 1, done.stdout + done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert [line.split()[1] for line in failed] == ["resources"], done.stdout
    assert "→ add nodes (1 with 64 CPUs free), or lower actors.count" in done.stdout


@pytest.fixture(scope="module")
def stopped(head, tiny_model, tmp_path_factory) -> dict:
    """A run that was submitted, read while it ran, and stopped after its first checkpoint."""
    runs = tmp_path_factory.mktemp("runs")
    backend = "docker" if engine_answers() else "process"
    environment = json.dumps({"env_vars": {MARK: str(runs)}})
    said = ray(
        head, "submit", "--no-wait", "--working-dir", ".", "--runtime-env-json", environment, "--",
        "python", "learner/main.py", "config=smoke", f"run.dir={runs}", f"model.path={tiny_model}", "rl.steps=9999",
        "tasks.held_in=[wine]", "tasks.held_out=[]", f"sandbox.backend={backend}", *PRECISION,
    )  # fmt: skip
    job = re.search(r"raysubmit_\w+", said).group()
    try:
        end = time.monotonic() + 400
        while not list(runs.glob("smoke/checkpoints/step_*")):
            assert time.monotonic() < end, ray(head, "status", job) + ray(head, "logs", job)
            time.sleep(1)
        logs = ray(head, "logs", job)
    finally:
        began = time.monotonic()
        ray(head, "stop", job)
    left, seconds = leftovers(runs, STOP_SECONDS), time.monotonic() - began
    print(f"everything had ended {seconds:.1f} s after `ray job stop` was called")
    return {
        "runs": runs, "logs": logs, "left": left, "seconds": seconds,
        "status": ray(head, "status", job), "log after": ray(head, "logs", job),
    }  # fmt: skip


def test_a_stopped_job_has_ended_everything_in_time(stopped):
    assert stopped["left"] == [] and stopped["seconds"] < STOP_SECONDS, stopped
    assert "STOPPED" in stopped["status"] or "stopped" in stopped["status"]


def test_its_log_reads_as_plain_lines(stopped):
    assert "evaluate base" in stopped["logs"] and "checkpoint" in stopped["logs"]
    assert "\x1b[2K" not in stopped["logs"] and "\r" not in stopped["logs"], "a live panel went into the log"


def test_no_secret_of_the_environment_is_in_results_or_logs(stopped, head):
    assert SECRET not in stopped["log after"]
    folders = [stopped["runs"], head.token_file.parent]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    assert any("checkpoints" in file.parts for file in files) and any(file.suffix == ".log" for file in files)
    told = [str(file) for file in files if SECRET.encode() in file.read_bytes()]
    assert told == []
