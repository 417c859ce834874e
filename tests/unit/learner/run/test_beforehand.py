"""What is known in a second is refused in a second: with exit code 2, by name, before anything starts."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from envs import sandbox
from envs.benchmarks import loader
from envs.benchmarks.loader import TaskError
from envs.records import Verifier
from envs.sandbox import SandboxFailure, docker, gvisor, process
from learner import evaluate, experts, main
from learner.config.load import RECORD, ConfigError, load
from learner.recipe import trajectories
from learner.run import beforehand
from tests.unit import fake_run
from tests.unit.test_imports import HEAVY, ROOT


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that looks like a model whose tokenizer is real."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 4096}))
    for name in ("model.safetensors", "chat_template.jinja"):
        (folder / name).touch()
    fake_run.tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def refused(tmp_path: Path, model: Path, monkeypatch) -> Callable[..., str]:
    """What a configuration is refused for; empty where it is not."""
    monkeypatch.setattr(sandbox, "require", lambda name: None)

    def given(*arguments: str, here: bool = True) -> str:
        base = f"run.dir={tmp_path}", f"model.path={model}", "tasks.held_in=[wine]", "tasks.held_out=[iris_petal]"
        try:
            beforehand.require(load([*base, *arguments]), here)
        except ConfigError as error:
            return str(error)
        return ""

    return given


def test_a_task_that_no_sandbox_here_could_run_is_refused_with_the_key(refused, monkeypatch):
    assert "task wine asks for 1 GPUs and sandbox.gpus=[]: name there" in refused("tasks.limits.gpus=1")
    assert "task wine asks for 2 GPUs" in refused("tasks.limits.gpus=2", "sandbox.gpus=[0,0]", here=False)
    verified = Verifier(Path("tests"), "/app", build=Path("environment"))
    wine = dataclasses.replace(loader.load("wine"), verifier=verified)
    monkeypatch.setattr(beforehand, "load", lambda name: dataclasses.replace(wine, id=name))
    monkeypatch.setattr(sandbox, "require", lambda name: "gvisor")
    assert re.match(r"task wine runs in an image of its own.* \(sandbox\.backend=docker\)", refused())


def test_auto_serves_a_task_with_an_image_of_its_own_where_docker_answers(tmp_path, model, monkeypatch):
    def away(*_: object) -> None:
        raise SandboxFailure("not here")

    own = dataclasses.replace(loader.load("wine"), verifier=Verifier(Path("tests"), "/app", build=Path("environment")))
    monkeypatch.setattr(beforehand, "load", lambda name: own)
    for module, name in ((docker, "engine"), (gvisor, "GvisorBackend"), (process, "ProcessBackend")):
        monkeypatch.setattr(module, name, lambda: None)
    cfg = load([f"run.dir={tmp_path}", f"model.path={model}", "tasks.held_in=[wine]", "tasks.held_out=[]"])
    assert (cfg.sandbox.backend, sandbox.require("auto")) == ("auto", "docker")
    beforehand.require(cfg, here=True)
    monkeypatch.setattr(docker, "engine", away)
    assert sandbox.require("auto") == "gvisor"
    with pytest.raises(ConfigError, match=r"\(sandbox\.backend=docker\)"):
        beforehand.require(cfg, here=True)
    monkeypatch.setattr(gvisor, "GvisorBackend", away)
    assert sandbox.require("auto") == "process"


HOSTS = "sandbox.cpus=2", "sandbox.memory_gb=4"


@pytest.mark.parametrize(
    ("gpus", "arguments", "why"),
    [
        ("[0]", ["actors.count=2"], "which 2 actors share out"),
        ("[0,1]", ["actors.max=3"], "which 3 actors share out"),
        ("[0,0]", ["actors.count=2"], ""),
        ("[0]", ["actors.count=2", "sandbox.hosts=1", *HOSTS], ""),
        ("[0,1]", ["sandbox.hosts=2", *HOSTS], "each of sandbox.hosts=2 has, on a node of its own"),
    ],
)
def test_cards_that_an_actor_or_host_of_this_machine_would_lack_or_share_are_refused(refused, gpus, arguments, why):
    given = ["tasks.limits.gpus=1", f"sandbox.gpus={gpus}", *arguments]
    said = refused(*given)
    assert why in said and bool(why) == bool(said)
    assert refused(*given, here=False) == "", "there may be several machines"


def test_what_can_be_run_is_not_refused(refused, tmp_path):
    assert refused() == ""
    folder = tmp_path / "earlier"
    folder.mkdir()
    for name in (RECORD, trajectories.PARQUET):
        (folder / name).touch()
    assert refused(f"experts.path={folder}") == refused("run.track=[]") == ""


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("experts.path=/nope", f"experts.path=/nope has no {RECORD}: give the folder of a run whose expert"),
        ("tasks.held_out=[winee]", "tasks.held_out=winee: there is no task 'winee': did you mean wine?"),
        ("tasks.held_in=[wine@0.1x]", "tasks.held_in=wine@0.1x: wine@0.1x: after @ comes a fidelity"),
        ("model.path=/nowhere", "model.path=/nowhere: give a model folder"),
        ("model.context=8000", "model.context=8000: "),
        ("model.context=200", "model.context=200 with model.response=128 is too small: task wine: its script"),
        ("experts.kind=llm experts.model=/nowhere", "model.path=/nowhere"),
    ],
)
def test_what_cannot_is_refused_by_name(refused, argument, says):
    assert refused(*argument.split()).startswith(says)


def test_a_tracker_that_is_not_installed(refused, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert refused("run.track=[wandb]").startswith("run.track names wandb, which is not installed: pip install wandb")


YARN = {"rope_type": "yarn", "factor": 4.0}


@pytest.mark.parametrize("rope", [{"rope_scaling": YARN}, {"rope_parameters": {"full_attention": YARN}}])
def test_a_longer_context_than_the_models_is_allowed_where_it_is_scaled(refused, model, rope):
    (model / "config.json").write_text(json.dumps({"max_position_embeddings": 4096, **rope}))
    assert refused("model.context=8000") == ""


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_damaged_model_is_named(refused, model, name):
    (model / name).write_text("{")
    assert refused().startswith(f"model.path={model}: {model}/{name} is damaged: ")


def test_a_sandbox_that_does_not_answer_is_refused_where_experiments_run_here(refused, monkeypatch):
    def fails(name: str) -> None:
        raise SandboxFailure("no Docker Engine answers: start it")

    monkeypatch.setattr(sandbox, "require", fails)
    why = "sandbox.backend=docker: no Docker Engine answers: start it"
    said = f"{why}; sandbox.backend=auto takes the strongest that works"
    assert refused("sandbox.backend=docker") == said and refused("sandbox.backend=docker", here=False) == ""
    assert refused("sandbox.backend=simulated", "sandbox.recorded=there") == ""


def test_an_engine_that_is_not_there_is_told_at_once_and_auto_takes_the_strongest(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(SandboxFailure, match="no Docker Engine answers"):
        sandbox.require("docker")
    monkeypatch.setattr(process.shutil, "which", lambda name: None)
    with pytest.raises(SandboxFailure, match="no Docker Engine answers.*runsc.*bubblewrap"):
        sandbox.require("auto")
    monkeypatch.setattr(process, "ProcessBackend", lambda: None)
    assert sandbox.require("auto") == "process"
    monkeypatch.setattr(docker, "engine", lambda: None)
    assert sandbox.require("auto") == "docker", "in it each task can be tried"


@pytest.mark.parametrize("command", [main.main, experts.main, evaluate.main])
def test_every_command_refuses_before_it_starts_anything(command, tmp_path, capsys):
    arguments = [f"run.dir={tmp_path}/runs", f"evaluation.folder={tmp_path}/runs/e", "tasks.held_in=[nowhere]"]
    assert command(arguments) == 2
    assert "tasks.held_in=nowhere: there is no task" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_refusal_loads_nothing_heavy():
    code = (
        "import json, sys\nfrom learner import main\n"
        "assert main.main(['config=smoke', 'tasks.held_in=[nowhere]']) == 2\n"
        "print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & set(json.loads(done.stdout))


def test_two_tasks_of_one_name_are_refused(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(beforehand, "load", lambda name: fake_run.TASKS["wine"])
    assert "another task is called wine too" in refused()
    monkeypatch.setattr(beforehand, "load", lambda name: (_ for _ in ()).throw(TaskError("prepare.py failed")))
    assert refused("tasks.held_out=[]") == "tasks.held_in=wine: prepare.py failed"


def test_all_that_lacks_is_told_at_once_and_each_reason_once(refused, monkeypatch):
    for variable in ("MLAGENTBENCH_DATA", "MLEBENCH_DATA"):
        monkeypatch.delenv(variable, raising=False)
    said = refused("tasks.held_in=[mlagentbench:cifar10,wine,nowhere]", "tasks.held_out=[mlagentbench:feedback]")
    assert said.startswith("3 of the tasks cannot be had:\n  mlagentbench:NAME: MLAGENTBENCH_DATA must name the folder")
    assert "prepare_task NAME" in said and "NAME is cifar10, feedback" in said and "NAME is nowhere" in said
    assert "wine\n" not in said
