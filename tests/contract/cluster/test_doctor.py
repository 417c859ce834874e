"""The doctor as a user calls it: on a set-up that works, and on set-ups each of which lacks one thing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from cluster.checks import sandboxes
from envs.benchmarks.loader import BUILTIN
from envs.sandbox import SandboxFailure, SandboxPool, base, cgroup
from tests.main_job import PRECISION

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 240
SMALL = ("config=smoke", "tasks.held_in=[wine]", "tasks.held_out=[]", "sandbox.backend=process", *PRECISION)


@pytest.fixture(scope="module", autouse=True)
def sandbox():
    try:
        SandboxPool("process").close()
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the process sandbox is not to be had: {reason}")


def doctor(*arguments: str, **environment: str) -> tuple[int, list[dict]]:
    """Exit code and findings."""
    command = [sys.executable, "-m", "cluster.doctor", "--json", *SMALL, *arguments]
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, timeout=SECONDS
    )
    told = json.loads(done.stdout)
    assert told["ok"] == (done.returncode == 0)
    return done.returncode, told["checks"]


def failed(checks: list[dict]) -> dict[str, dict]:
    return {one["check"]: one for one in checks if one["verdict"] == "failed"}


def test_a_set_up_that_works_passes_every_check_and_keeps_nothing(tiny_model, tmp_path):
    code, checks = doctor(f"model.path={tiny_model}", f"run.dir={tmp_path}/runs")
    assert (code, failed(checks)) == (0, {})
    assert [one["check"] for one in checks] == [
        "tasks", "ray", "packages", "resources", "object store", "lock", "model", "storage", "shared memory", "disk",
        "clocks", "sandbox process", "imports", "engine", "experiment", "weights", "log-probs",
        "costs",
    ]  # fmt: skip
    assert "token authentication on" in next(one["found"] for one in checks if one["check"] == "ray")
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.long
def test_a_sandbox_that_lets_memory_by_is_found_out(monkeypatch, tmp_path):
    """The process sandbox without a control group, and without what bounds the sum of its processes there."""
    monkeypatch.setattr(cgroup, "make", lambda *_, **__: None)
    look = "shown = {process: anonymous("
    changes = {"memory": (look, f"self.due += 1; return False; {look}"), "seccomp": ("load(countable(", "str((")}
    for name, (bound, free) in changes.items():
        source = Path(base.MODULES[name].__file__).read_text()
        assert bound in source
        (tmp_path / f"{name}.py").write_text(source.replace(bound, free))
        weakened = types.SimpleNamespace(__file__=str(tmp_path / f"{name}.py"))
        monkeypatch.setitem(base.MODULES, name, weakened)
    trial = sandboxes.examine("process", sandboxes.Found(), ["numpy"], [])
    assert [promise.partition(" took")[0] for promise in trial.broken] == [
        "memory: several processes", "memory: files in memory", "memory: shared memory"
    ]  # fmt: skip


@pytest.mark.long
def test_another_version_of_a_package(tiny_model, tmp_path):
    info = tmp_path / "packages" / "deepspeed-0.18.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deepspeed\nVersion: 0.18.2\n")
    code, checks = doctor(f"model.path={tiny_model}", f"run.dir={tmp_path}/runs", PYTHONPATH=str(info.parent))
    found = failed(checks)
    assert code == 1 and set(found) == {"packages", "lock"}
    assert found["packages"]["found"] == "deepspeed is 0.18.2, not ==0.19.8"
    assert "pip install --no-deps -r requirements-cpu.txt" in found["packages"]["fix"]
    assert checks[-1]["found"] == "not tried, since lock, packages failed"


@pytest.mark.long
def test_resources_that_no_node_has_and_a_store_too_small_for_the_model(tmp_path):
    code, checks = doctor(
        f"run.dir={tmp_path}/runs", "actors.cpus=64", "actors.count=2", "model.dtype=bfloat16",
        RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES="100000000",
    )  # fmt: skip
    found = failed(checks)
    assert code == 1 and set(found) == {"resources", "object store"}
    assert "2 with 64 CPUs free" in found["resources"]["fix"] and "actors.count" in found["resources"]["fix"]
    assert "--object-store-memory=538060032" in found["object store"]["fix"]


@pytest.mark.long
def test_experiments_that_import_what_the_sandbox_lacks(tiny_model, tmp_path):
    import shutil

    task = tmp_path / "mine"
    shutil.copytree(BUILTIN / "wine", task)
    (task / "env/train.py").write_text("import torch\n" + (task / "env/train.py").read_text())
    arguments = f"model.path={tiny_model}", f"run.dir={tmp_path}/runs", f"tasks.held_in=[{task}]"
    code, checks = doctor(*arguments)
    assert code == 1 and set(failed(checks)) == {"imports"}
    assert failed(checks)["imports"]["found"] == "mine imports torch: not in the process sandbox"
    assert "sandbox.packages=torch" in failed(checks)["imports"]["fix"]


def test_storage_that_cannot_be_written_and_no_sandbox_at_all(tiny_model):
    arguments = f"model.path={tiny_model}", "run.dir=/proc/runs", "sandbox.backend=auto"
    without = {"PATH": str(Path(sys.executable).parent), "DOCKER_HOST": "tcp://127.0.0.1:1"}
    code, checks = doctor(*arguments, **without)
    found = failed(checks)
    assert code == 1 and set(found) == {"storage", "sandbox docker", "sandbox gvisor", "sandbox process"}
    assert "/proc/runs" in found["storage"]["found"] and "run.dir" in found["storage"]["fix"]
    assert "apt-get install bubblewrap" in found["sandbox process"]["found"]


def test_a_model_that_is_not_complete_and_a_task_that_is_not_there(tmp_path):
    (tmp_path / "model").mkdir()
    code, checks = doctor(f"model.path={tmp_path}/model", f"run.dir={tmp_path}/runs", "tasks.held_in=[wines]")
    assert code == 1 and set(failed(checks)) == {"tasks", "model"}
    assert "config.json" in failed(checks)["model"]["found"] and "wine" in failed(checks)["tasks"]["found"]


def test_a_cluster_that_does_not_answer(tiny_model, tmp_path):
    code, checks = doctor(f"model.path={tiny_model}", f"run.dir={tmp_path}", RAY_ADDRESS="127.0.0.1:1")
    assert code == 1 and "RAY_ADDRESS=127.0.0.1:1: nothing answers there" in failed(checks)["ray"]["found"]


def test_a_run_refuses_at_its_start_what_the_quick_checks_find(tiny_model, tmp_path):
    command = [sys.executable, "learner/main.py", *SMALL, f"model.path={tiny_model}", f"run.dir={tmp_path}"]
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [*command, "actors.cpus=64"], cwd=ROOT, env=inherited, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: " in done.stderr and "add nodes (1 with 64 CPUs free), or lower actors.count" in done.stderr
