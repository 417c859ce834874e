"""The socket of task sources: a benchmark from outside gives tasks by name, or is refused before anything starts."""

import importlib
import sys

import pytest

from envs.benchmarks import sources
from envs.benchmarks.loader import TaskError, about, load
from envs.benchmarks.mlebench import task_folder
from envs.sockets import imported
from learner.config.load import ConfigError
from learner.config.load import load as configuration
from learner.main import main

OUTSIDE = '''
from pathlib import Path

from envs.benchmarks.task_cache import made_once
from envs.benchmarks.task_file import TaskError

FILES = {
    "task.yaml": "metric: accuracy\\ndirection: maximize\\nrows: [train.csv]\\n",
    "env/train.py": "print()",
    "env/train.csv": "x\\n" + "1\\n" * 100,
    "scripts/research_problem.txt": "Predict y.",
    "scripts/eval.py": "def get_score(folder): return 1.0",
}


def write(folder):
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def folder(name):
    """Tasks in folders of the package."""
    if name != "cars":
        raise TaskError(f"there is no {name}: only cars")
    return Path(__file__).parent / "data" / name


def made(name):
    """Tasks that are made in the cache."""
    return made_once(f"{Path(name).name}-v1", write)


def lost(name):
    return f"/nowhere/{name}"


def silent(name):
    pass


def needs_more(name, version):
    return folder(name)


number = 3
'''


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    monkeypatch.setenv("MLAGENT_CACHE", str(tmp_path / "cache"))
    package = tmp_path / "outside_tasks"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "own.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("outside_tasks", "outside_tasks.own"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.import_module("outside_tasks.own").write(package / "data" / "cars")
    return package


def test_a_folder_of_a_source_is_a_task_and_is_prepared_as_any_other(package):
    name = "outside_tasks.own:folder:cars"
    assert configuration([f"tasks.held_in=[{name},{name}@0.5]"]).tasks.held_in == [name, f"{name}@0.5"]
    task = load(name)
    assert (task.id, task.metric, task.problem) == ("cars", "accuracy", "Predict y.")
    assert about(name).rows == ["train.csv"]
    assert package not in task.env_dir.parents, "a copy"
    assert load(f"{name}@0.5").id == "cars@0.5"
    before = task.digest
    (package / "data/cars/env/train.csv").write_text("x\n2\n")
    assert load(name).digest != before


def test_what_a_source_made_in_the_cache_is_taken_as_it_is():
    task = load("outside_tasks.own:made:eu/boats")
    assert (task.id, task.digest) == ("boats", "boats-v1")


def test_a_task_that_the_source_does_not_have_is_its_own_error():
    with pytest.raises(TaskError, match="there is no boats: only cars"):
        load("outside_tasks.own:folder:boats")


@pytest.mark.parametrize("name", ["lost", "silent"])
def test_what_is_no_folder_is_refused(name):
    with pytest.raises(TaskError, match=f"task cars: source outside_tasks.own:{name} must return its folder, not "):
        load(f"outside_tasks.own:{name}:cars")


@pytest.mark.parametrize(
    ("tasks", "reason"),
    [
        ("outside_tasks.own:lost:cars", "must return its folder, not '/nowhere/cars'"),
        ("outside_tasks.own:folder:boats", "there is no boats: only cars"),
        ("wine,outside_tasks.own:folder:cars,outside_tasks.own:made:cars", "another task is called cars too: rename"),
    ],
)
def test_a_run_with_a_task_that_cannot_be_had_is_refused_before_anything_starts(tasks, reason, tmp_path, capsys):
    assert main([f"tasks.held_in=[{tasks}]", "tasks.held_out=[]", f"run.dir={tmp_path}/runs"]) == 2
    last = tasks.rpartition(",")[2]
    error = capsys.readouterr().err
    assert error.startswith(f"error: tasks.held_in={last}: ") and reason in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("nowhere_at_all:tasks", "source nowhere_at_all:tasks cannot be imported (ModuleNotFoundError"),
        ("outside_tasks.own:absent", "source outside_tasks.own:absent cannot be imported (AttributeError"),
        ("outside_tasks.own:number", "must take the name of a task (3 is not a callable object)"),
        ("outside_tasks.own:needs_more", "must take the name of a task (missing a required argument: 'version')"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused_with_the_configuration(source, reason):
    with pytest.raises(ConfigError) as refusal:
        configuration([f"tasks.held_out=[{source}:cars]"])
    assert str(refusal.value).startswith(f"tasks.held_out={source}:cars: ")
    assert reason in str(refusal.value)


def test_mlebench_comes_through_the_same_door():
    assert sources.split("mlebench:spaceship-titanic") == ("mlebench", "spaceship-titanic")
    assert imported(sources.SOURCES["mlebench"], "") is task_folder


@pytest.mark.parametrize("name", ["wine", "wine@0.1", "/data/a:b:c", "./a:b:c", "mlebench:", "a:b", "s3://bucket:b:c"])
def test_other_names_are_no_source(name):
    assert sources.split(name) is None
