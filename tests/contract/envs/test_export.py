"""A task of ours in Harbor's format: there and back, each submission is worth what it is worth here."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest
from docker.types import Mount

from envs import harbor_export
from envs.__main__ import main
from envs.admission import node_capacity
from envs.benchmarks.loader import load
from envs.environment import Environment
from envs.errors import TaskError
from envs.experiments import SandboxRunner
from envs.records import Outcome, Task
from envs.sandbox import SandboxFailure, SandboxPool
from envs.workspace import SnapshotStore
from reward import Terms, reward


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "wine-there"
    try:
        SandboxPool("process").close()
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the process sandbox is not to be had: {reason}")
    assert main(["export", "wine", str(folder), "--sandbox", "process", "reward.version=v2"]) == 0
    return folder


@pytest.fixture(scope="module")
def runner() -> SandboxRunner:
    runner = SandboxRunner(SandboxPool("process"), node_capacity())
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def there(exported: Path) -> Task:
    return load(f"harbor:{exported}")


def test_every_submission_is_worth_there_what_it_is_here(exported, there, runner, tmp_path):
    here = replace(load("wine"), m_init=json.loads((exported / "tests/task/task.json").read_text())["m_init"])
    environment = Environment({"wine": here}, runner, SnapshotStore(tmp_path))
    best = (here.private_dir / "best.py").read_text()
    own = environment.step(environment.initial_state("wine"), f"Action: Write\n```\n{best}\n```")
    assert own.outcome is Outcome.EDITED
    solved = runner.run(there, {there.script: (there.private_dir / "best.sh").read_text()})
    assert math.isclose(solved.score, reward(own, here, Terms("v2")).value), solved.log
    assert runner.run(there, {there.script: f"python3 {here.script}"}).score == 0.0, "as good as it was"
    for crooked in ("true", "ln -s /tests/task/scripts/answers.csv submission.csv"):
        assert runner.run(there, {there.script: crooked}).score == -1.0


@pytest.fixture(scope="module")
def image(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What environment/Dockerfile makes, but for where its packages come from: no registry is asked."""
    try:
        has_packages = SandboxPool("docker").image
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the docker sandbox is not to be had: {reason}")
    context = tmp_path_factory.mktemp("built") / "environment"
    shutil.copytree(exported / "environment", context)
    base, packages, *rest = (context / "Dockerfile").read_text().splitlines()
    assert base.startswith("FROM python:") and packages.startswith("RUN pip install --no-cache-dir numpy==")
    (context / "Dockerfile").write_text("\n".join([f"FROM {has_packages}", "USER 0", *rest, ""]))
    engine = docker.from_env(timeout=600)
    built, _ = engine.images.build(path=str(context), rm=True)
    yield built.id
    engine.images.remove(built.id, force=True)


def test_its_tests_write_the_reward_in_the_image_that_it_describes(exported, there, runner, image, tmp_path):
    """As Harbor does it: an agent as root in /app, then the tests, at /tests, in the same container."""
    engine = docker.from_env()
    scores = {}
    for name, agent in {"solved": "bash /solution/solve.sh", "as it was": "python3 train.py", "idle": "true"}.items():
        logs = tmp_path / name.replace(" ", "-")
        logs.mkdir()
        engine.containers.run(
            image, ["-c", f"{agent} && bash /tests/test.sh"], entrypoint=["bash"], network_mode="none", remove=True,
            mounts=[
                Mount("/tests", str(exported / "tests"), type="bind", read_only=True),
                Mount("/solution", str(exported / "solution"), type="bind", read_only=True),
                Mount("/logs/verifier", str(logs), type="bind"),
            ],
        )  # fmt: skip
        scores[name] = json.loads((logs / "reward.json").read_text())
    solved = runner.run(there, {there.script: (there.private_dir / "best.sh").read_text()})
    assert math.isclose(scores["solved"]["reward"], solved.score, rel_tol=1e-6) and solved.score > 0
    assert scores["as it was"]["reward"] == 0.0 and scores["idle"] == {"reward": -1.0}
    first = scores["as it was"]
    assert scores["solved"]["score"] < first["score"] != first["test_score"], "a loss"


def test_nothing_that_an_agent_leaves_is_imported_beside_the_answers(there, runner):
    shadow = "python3 train.py\nfor name in numpy pandas json envs reward; do echo 'raise SystemExit' > $name.py; done"
    assert runner.run(there, {there.script: shadow}).score == 0.0


def test_answers_are_in_the_tests_alone(exported):
    private = {path.read_bytes() for path in (exported / "tests/task/scripts").glob("*.csv")}
    outside = [path for path in exported.rglob("*") if path.is_file() and "tests" not in path.parts]
    assert private and not private & {path.read_bytes() for path in outside}
    assert "MLAGENT" not in (exported / "task.toml").read_text()


def test_what_tests_would_not_have_is_refused(there, tmp_path, exported):
    with pytest.raises(TaskError, match="one of Harbor's already"):
        harbor_export.write(tmp_path / "again", there, {"version": "v1"})
    wine = load("wine")
    with pytest.raises(TaskError, match="not of this project"):
        harbor_export.write(tmp_path / "own", wine, {"version": "my_rewards:mine"})
    (tmp_path / "eval.py").write_text("import torch\nfrom envs.benchmarks import package_graders\n")
    with pytest.raises(TaskError, match=r"imports envs\.benchmarks, which"):
        harbor_export.write(tmp_path / "other", replace(wine, private_dir=tmp_path), {"version": "v1"})
    assert main(["export", "wine", str(exported)]) == 1
