"""The whole loop, every part real, as a user of any Ray cluster calls it: `ray job submit`, `logs` and `stop` after the
first checkpoint, submitted again to resume, and looked at from outside. On the same head, what `make train` asks of
the Jobs API.

A tiny random model takes the policy's place: its texts are no actions, and rewarded for their letters, so that rewards
vary and the learner takes steps. Experiments run in Docker where an engine answers, otherwise in the process sandbox.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from cluster.head import Head
from cluster.job import Job
from cluster.quickstart import attend, connect, entrypoint
from learner.run import trackers, transitions
from tests import text_reward
from tests.main_job import MARK, PRECISION, ROOT, engine_answers, leftovers, require_trained

STATES, ACTIONS, ATTEMPTS = 2, 4, 2
MORE = 2
"""Learner steps that the resumed run does after those of the one that was stopped."""
SMALL = (
    "config=smoke", "tasks.held_in=[wine]", "tasks.held_out=[iris_petal]", *PRECISION,
    "model.response=128", "experts.trajectories=16", "experts.steps=1", "sft.epochs=4", "sft.learning_rate=0.005",
    "reward.version=text_reward:letters", "rl.learning_rate=0.0002",
    f"rl.states={STATES}", f"rl.actions={ACTIONS}", f"evaluation.attempts={ATTEMPTS}",
)  # fmt: skip
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
            yield started
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def client(head) -> JobSubmissionClient:
    """For what need not be a command, each of which takes seconds of a core."""
    return connect(head)


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


def test_without_the_token_nothing_is_answered(head, client):
    for path in ("/api/jobs/", "/api/cluster_status", "/api/v0/tasks"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(head.dashboard + path, timeout=10)


def test_little_travels_with_a_job_and_all_that_it_needs(client):
    said = "\n".join(Job(client, entrypoint(["python", "-c", WEIGH], in_place=False), {"working_dir": str(ROOT)}))
    size, top = json.loads(re.search(r"^WEIGHED (.*)$", said, re.MULTILINE).group(1))
    assert size < MOST_BYTES, f"{size} bytes: name what is not needed in .rayignore"
    assert {"actors", "cluster", "envs", "learner", "reward", "pyproject.toml", "requirements-cpu.txt"} <= set(top)
    assert not {"tests", "docs", "runs", ".venv", ".git"} & set(top), top


def test_output_is_shown_and_the_exit_code_passed_on(client, tmp_path, capfd):
    code = "import sys; print('über', sys.executable); print('end', end=''); sys.exit(7)"
    assert attend(Job(client, entrypoint(["python", "-c", code], in_place=True), {}), tmp_path) == 7
    shown = capfd.readouterr().out
    assert f"über {sys.executable}\n" in shown
    assert shown.endswith("end\n")


def test_a_job_imports_the_project_from_its_working_directory(client, tmp_path):
    project = tmp_path / "project"
    (project / "envs").mkdir(parents=True)
    (project / "envs" / "__init__.py").write_text("WHERE = 'uploaded'")
    code = "import envs, pathlib, sys; sys.exit(not (envs.WHERE == 'uploaded' and pathlib.Path('envs').is_dir()))"
    job = Job(client, entrypoint(["python", "-c", code], in_place=False), {"working_dir": str(project)})
    assert attend(job, tmp_path) == 0


def test_the_doctor_examines_the_cluster_that_it_is_pointed_at(head, tiny_model, tmp_path):
    arguments = "config=smoke", f"model.path={tiny_model}", f"run.dir={tmp_path}", "sandbox.backend=process"
    done = called(head, sys.executable, "-m", "cluster.doctor", *arguments, "actors.cpus=64")
    assert done.returncode == 1, done.stdout + done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert [line.split()[1] for line in failed] == ["resources"], done.stdout
    assert "→ add nodes (1 with 64 CPUs free), or lower actors.count" in done.stdout


def submit(head: Head, runs: Path, model: Path, *arguments: str) -> str:
    """The id of a run that was submitted, with a reward of the user's own."""
    shutil.copy(text_reward.__file__, runs)
    environment = json.dumps({"env_vars": {MARK: str(runs), "PYTHONPATH": str(runs)}})
    said = ray(
        head, "submit", "--no-wait", "--working-dir", ".", "--runtime-env-json", environment, "--",
        "python", "learner/main.py", f"run.dir={runs}", f"model.path={model}", *SMALL,
        f"sandbox.backend={'docker' if engine_answers() else 'process'}", *arguments,
    )  # fmt: skip
    return re.search(r"raysubmit_\w+", said).group()


def looked_at(run: Path) -> dict[str, Any]:
    """What the page of `mlagent watch` tells of a run that goes on."""
    page = subprocess.Popen(
        [sys.executable, "learner/watch.py", str(run)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        address, _, token = page.stdout.readline().strip().partition("/#token=")
        request = urllib.request.Request(f"{address}/now", headers={"Authorization": f"Bearer {token}"})
        end = time.monotonic() + 120
        while True:
            with urllib.request.urlopen(request, timeout=60) as answer:
                now = json.loads(gzip.decompress(answer.read()))
            if now.get("doing") and now["tried"]:
                return now
            assert time.monotonic() < end, now
            time.sleep(0.5)
    finally:
        page.kill()
        page.wait()


@pytest.fixture(scope="module")
def stopped(head, client, tiny_model, tmp_path_factory) -> dict[str, Any]:
    """A run that was submitted, read while it ran, and stopped after the checkpoint of its first learner step."""
    runs = tmp_path_factory.mktemp("runs")
    job = submit(head, runs, tiny_model, "rl.steps=9999")
    try:
        end = time.monotonic() + 600
        while not (runs / "smoke/checkpoints/step_1").exists():
            assert time.monotonic() < end, client.get_job_logs(job)
            time.sleep(1)
        page = looked_at(runs / "smoke")
        logs = ray(head, "logs", job)
    finally:
        began = time.monotonic()
        ray(head, "stop", job)
    left, seconds = leftovers(runs, STOP_SECONDS), time.monotonic() - began
    print(f"everything had ended {seconds:.1f} s after `ray job stop` was called")
    return {
        "runs": runs, "page": page, "logs": logs, "left": left, "seconds": seconds,
        "status": client.get_job_status(job), "log after": client.get_job_logs(job),
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(stopped, head, client, tiny_model) -> Path:
    """The folder of that run, resumed to its end."""
    runs = stopped["runs"]
    steps = (runs / "smoke/metrics.jsonl").read_text().count("\n") + MORE
    job = submit(head, runs, tiny_model, f"rl.steps={steps}", "run.resume=true")
    end = time.monotonic() + 600
    while not client.get_job_status(job).is_terminal():
        assert time.monotonic() < end, client.get_job_logs(job)
        time.sleep(1)
    said = client.get_job_logs(job)
    assert client.get_job_status(job) == JobStatus.SUCCEEDED, said
    assert leftovers(runs) == []
    assert "resumed from" in said
    return runs / "smoke"


def test_a_stopped_job_has_ended_everything_in_time(stopped):
    assert stopped["left"] == [] and stopped["seconds"] < STOP_SECONDS, stopped
    assert stopped["status"] == JobStatus.STOPPED


def test_its_page_tells_what_actors_did_before_it_was_trained(stopped):
    now = stopped["page"]
    assert now["state"] == "running" and {"learner", "experiments"} <= {label for label, *_ in now["cards"]}
    assert {(task, part) for task, part, *_ in now["doing"]} <= {("wine", "proposal"), ("wine", "experiment")}
    assert any(re.fullmatch(r"group-\d{6}/\d{3}", one["id"]) for one in now["tried"])
    assert all(one["task"] == "wine" and one["actor"] == "actor-0" and one["diff"] for one in now["tried"])


def test_its_log_reads_as_plain_lines(stopped):
    assert "evaluate base" in stopped["logs"] and "checkpoint" in stopped["logs"]
    assert "\x1b[2K" not in stopped["logs"] and "\r" not in stopped["logs"], "a live panel went into the log"


def test_every_learner_step_is_told_once(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1)) and len(rows) > MORE
    for row in rows:
        assert row["transitions"] == STATES * ACTIONS == sum(row["outcomes"].values())
        assert 0 <= row["staleness_max"] <= 1
        assert row["tokens_per_s"] > 0 and row["seconds"] > 0
        assert row["loss"] is not None and row["grad_norm"] > 0
        assert row["logprob_gap_mean"] < 0.1 or not row["logprob_gap_on_current"]
    assert set(itertools.chain(*trackers.VIEW.values())) <= rows[-1].keys(), "W&B is shown no figure of another name"


def test_what_was_delivered_is_what_was_trained(run):
    require_trained(run)


def test_every_transition_is_trained_once_and_complete(run):
    rows = list(transitions.read(run))
    steps = (run / "metrics.jsonl").read_text().count("\n")
    assert len({row["id"] for row in rows}) == len(rows) == steps * STATES * ACTIONS
    assert set(Counter(row["group_id"] for row in rows).values()) == {ACTIONS}
    for row in rows:
        assert len(row["response_ids"]) == len(row["behaviour_logprobs"]) > 0
        assert np.max(row["behaviour_logprobs"]) <= 0
        spans = row["version_spans"]
        assert spans[0]["start"] == 0 and spans[-1]["end"] == len(row["response_ids"])
        assert all(span["version"] >= 1 for span in spans)


def test_evaluation_covers_all_stages(run):
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert {(task["task"], task["split"]) for task in evaluation["tasks"]} == {
        ("wine", "held_in"), ("iris_petal", "held_out"),
    }  # fmt: skip
    for task in evaluation["tasks"]:
        assert set(task["stages"]) == {"base", "sft", "rl"}
        assert all(stage["n"] == ATTEMPTS for stage in task["stages"].values())
        assert task["m_init"] is not None


def test_the_checkpoint_is_a_plain_model_that_was_trained(run):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    steps = sorted(int(folder.name.partition("_")[2]) for folder in (run / "checkpoints").glob("step_*"))[-2:]
    assert steps[1] - steps[0] == 1, "the step between them was reinforcement's"
    newest = run / f"checkpoints/step_{steps[1]}/hf"

    def weights(step: int) -> dict[str, torch.Tensor]:
        return AutoModelForCausalLM.from_pretrained(run / f"checkpoints/step_{step}/hf").state_dict()

    trained, before = weights(steps[1]), weights(steps[0])
    assert any(not torch.equal(trained[name], before[name]) for name in trained)
    assert AutoTokenizer.from_pretrained(newest).chat_template


def test_the_report_is_there(run):
    assert "wine" in (run / "report.html").read_text()
    assert list((run / "tensorboard").iterdir())


def test_no_secret_of_the_environment_is_in_results_or_logs(stopped, run, head):
    assert SECRET not in stopped["log after"]
    folders = [stopped["runs"], head.token_file.parent]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    assert any("checkpoints" in file.parts for file in files) and any(file.suffix == ".log" for file in files)
    told = [str(file) for file in files if SECRET.encode() in file.read_bytes()]
    assert told == []
