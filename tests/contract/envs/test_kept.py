"""Files that a run leaves: kept within a quota for the runs of later states, and never lost without a word."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from envs import experiments
from envs.admission import node_capacity
from envs.environment import Environment
from envs.experiment_cache import CachedRunner
from envs.experiments import SandboxRunner
from envs.records import Direction, Kept, Limits, Origin, Outcome, State, StepResult, Task
from envs.sandbox import SandboxPool
from envs.workspace import SnapshotStore

SCRIPT = "open('submission.csv', 'w').write('score,0.5')\n"
GRADER = "def get_score(folder):\n    return float(open(folder + '/submission.csv').read().split(',')[1])\n"
TRAINS = (
    "import os\nos.makedirs('out', exist_ok=True)\nopen('out/model.pkl', 'wb').write(b'\\xff\\x00' * {size})\n" + SCRIPT
)
USES = "found = len(open('out/model.pkl', 'rb').read())\nopen('submission.csv', 'w').write(f'score,{found / 10000}')\n"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("task")
    for name, text in {"env/train.py": SCRIPT, "env/base.pkl": "own", "scripts/eval.py": GRADER}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return Task(
        "toy", "problem", folder / "env", folder / "scripts", "train.py", frozenset({"base.pkl"}), "accuracy",
        Direction.MAXIMIZE, "held_in", Limits(seconds=5, memory_mb=300, disk_mb=32), 1.0, 0.5, shell=True,
        keep=("*.pkl",), keep_mb=1,
    )  # fmt: skip


@pytest.fixture
def environment(pool: SandboxPool, task: Task, tmp_path: Path) -> Environment:
    store = SnapshotStore(tmp_path / "snapshots")
    runner = CachedRunner(SandboxRunner(pool, node_capacity(), snapshots=store), tmp_path / "experiments", store)
    return Environment({"toy": task}, runner, store)


def write(environment: Environment, state: State, script: str, name: str = "Write") -> StepResult:
    return environment.step(state, f"Action: {name}\n```\n{script}\n```")


def kept(environment: Environment, state: State) -> dict[str, int]:
    return {name: file.size for name, file in environment.workspace(state).items() if isinstance(file, Kept)}


def test_what_a_run_leaves_is_there_for_the_next_and_an_undo_gives_back_what_was(environment):
    start = environment.initial_state("toy")
    assert write(environment, start, USES).outcome is Outcome.SCRIPT_ERROR
    trained = write(environment, start, TRAINS.format(size=2000))
    assert trained.score_after == 0.5 and "kept: out/model.pkl" in trained.observation
    assert kept(environment, trained.state) == {"out/model.pkl": 4000}
    assert environment.files(trained.state).keys() == {"train.py"}, "what is shown and edited is text"
    used = write(environment, trained.state, USES)
    assert used.score_after == 0.4, used.log_tail
    looked = write(environment, used.state, "wc -c < out/model.pkl; rm out/model.pkl; echo x > own.pkl", "Shell")
    assert looked.observation.startswith("4000") and "kept: own.pkl" in looked.observation
    assert looked.outcome is Outcome.SCRIPT_ERROR and kept(environment, looked.state) == {"own.pkl": 2}
    back = environment.step(looked.state, "Action: Undo").state
    assert kept(environment, back) == {"out/model.pkl": 4000} and back.score == 0.4
    assert kept(environment, environment.step(environment.step(back, "Action: Undo").state, "Action: Undo").state) == {}


def test_what_is_over_the_quota_is_said_and_what_was_kept_stays(environment):
    trained = write(environment, environment.initial_state("toy"), TRAINS.format(size=10))
    over = write(environment, trained.state, TRAINS.format(size=2_000_000))
    assert over.outcome is Outcome.EDITED and "not kept: out/model.pkl (3.8 MiB): over the 1 MiB" in over.observation
    assert kept(environment, over.state) == {"out/model.pkl": 20}
    failed = write(environment, trained.state, TRAINS.format(size=99) + "raise ValueError")
    assert kept(environment, failed.state) == {"out/model.pkl": 20}, "a run that fails leaves nothing"


def test_only_files_of_the_scripts_own_are_kept(environment):
    script = "import os\nos.symlink('/etc/passwd', 'link.pkl')\nos.mkfifo('pipe.pkl')\nopen('a.txt', 'w').write('x')\n"
    done = write(environment, environment.initial_state("toy"), f"{script}os.mkdir('c.pkl')\n{SCRIPT}")
    assert done.score_after == 0.5 and kept(environment, done.state) == {}


def test_a_cached_result_brings_its_files_and_counts_as_none_without_them(environment, tmp_path):
    start, script = environment.initial_state("toy"), TRAINS.format(size=500)
    first, again = (environment.baseline("toy") and write(environment, start, script) for _ in range(2))
    assert (first.origin, again.origin) == (Origin.RUN, Origin.CACHE)
    assert first.state.snapshot == again.state.snapshot and kept(environment, again.state) == {"out/model.pkl": 1000}
    store = SnapshotStore(tmp_path / "snapshots")
    (content,) = (tmp_path / "snapshots" / "kept").iterdir()
    old = time.time() - 1000
    for file in [content, *(tmp_path / "snapshots").glob("*.json")]:
        os.utime(file, (old, old))
    store.collect([again.state], older_than=100)
    assert content.exists(), "a state needs it"
    store.collect([replace(start)], older_than=100)
    assert not content.exists()
    rerun = write(environment, start, script)
    assert rerun.origin is Origin.RUN and write(environment, rerun.state, USES).score_after == 0.1


def test_states_of_another_run_bring_what_they_keep(environment, tmp_path):
    trained = write(environment, environment.initial_state("toy"), TRAINS.format(size=50)).state
    there = SnapshotStore(tmp_path / "other")
    there.take(SnapshotStore(tmp_path / "snapshots"), trained.snapshot)
    (file,) = (file for file in there.get(trained.snapshot).values() if isinstance(file, Kept))
    assert len(there.content(file)) == 100


def test_a_kept_file_in_the_place_of_the_tasks_own_is_a_change_whatever_that_holds(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"\x80\x81")
    (tmp_path / "train.py").write_text("pass\n")
    task = SimpleNamespace(env_dir=tmp_path)
    assert not experiments._unchanged(task, {"train.py": "pass\n", "model.pkl": Kept("0" * 64, 2)})
    assert experiments._unchanged(task, {"train.py": "pass\n"})
