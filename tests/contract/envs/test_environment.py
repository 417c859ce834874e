"""One action on one state, run for real on every backend: outcome, score, and the state that follows."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from envs.admission import node_capacity
from envs.benchmarks.loader import load
from envs.environment import Environment
from envs.experiments import SandboxRunner
from envs.records import Direction, Finding, Limits, Outcome, State, Task
from envs.sandbox import SandboxFailure, SandboxPool
from envs.workspace import SnapshotStore

SCRIPT = "value = 0.5\nopen('submission.csv', 'w').write(f'score,{value}')\nprint('trained')\n"
GRADER = "def get_score(folder):\n    return float(open(folder + '/submission.csv').read().split(',')[1])\n"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("task")
    (folder / "env" / "data").mkdir(parents=True)
    (folder / "env" / "train.py").write_text(SCRIPT)
    (folder / "env" / "train.csv").write_text("x,y\n1,2\n")
    (folder / "env" / "data" / "part.csv").write_text("x,y\n1,2\n")
    (folder / "scripts").mkdir()
    (folder / "scripts" / "eval.py").write_text(GRADER)
    return Task(
        "toy", "problem", folder / "env", folder / "scripts", "train.py",
        frozenset({"train.csv", "data/part.csv"}), "accuracy", Direction.MAXIMIZE, "held_in",
        Limits(seconds=60, memory_mb=300, disk_mb=32), 1.0, 0.5,
    )  # fmt: skip


@pytest.fixture
def environment(pool: SandboxPool, task: Task, tmp_path: Path) -> Environment:
    hurried = replace(task, id="hurried", limits=replace(task.limits, seconds=2))
    tasks = {one.id: one for one in (task, hurried)}
    return Environment(tasks, SandboxRunner(pool, node_capacity()), SnapshotStore(tmp_path))


@pytest.fixture
def start(environment: Environment) -> State:
    return environment.initial_state("toy")


def edit(search: str, replacement: str) -> str:
    return f"Thought: try it\nAction: Edit\n<<<<<<< SEARCH\n{search}\n=======\n{replacement}\n>>>>>>> REPLACE"


def write(content: str, path: str = "train.py") -> str:
    return f"Thought: rewrite\nAction: Write\nFile: {path}\n```python\n{content}\n```"


def test_the_baseline_is_run_and_graded(environment: Environment) -> None:
    result = environment.baseline("toy")
    assert (result.outcome, result.score_after) == (Outcome.NEUTRAL, 0.5) and "trained" in result.log_tail
    assert result.durations.execute > 0


def test_an_edit_is_scored_and_the_next_state_holds_it(environment: Environment, start: State) -> None:
    result = environment.step(start, edit("value = 0.5", "value = 0.7"))
    assert (result.outcome, result.score_before, result.score_after) == (Outcome.EDITED, 0.5, 0.7)
    assert "value = 0.7" in environment.files(result.state)["train.py"]
    assert (result.state.score, result.state.reference) == (0.7, 0.7) and len(result.state.history) == 1
    assert "0.7" in result.state.history[0].observation
    again = environment.step(result.state, "Action: Execute")
    assert (again.outcome, again.score_after) == (Outcome.NEUTRAL, 0.7)
    assert "value = 0.5" in environment.files(start)["train.py"]


@pytest.mark.parametrize(
    ("script", "outcome", "shown"),
    [
        ("raise ValueError('bad fit')", Outcome.SCRIPT_ERROR, "ValueError: bad fit"),
        ("print('accuracy: 1.0')", Outcome.SCRIPT_ERROR, "no submission.csv"),
        ("open('submission.csv', 'w').write('score,nan')", Outcome.SCRIPT_ERROR, "nan"),
        ("while True: pass", Outcome.TIMEOUT, "2 s"),
        ("kept = bytearray(1 << 32)", Outcome.SCRIPT_ERROR, "MemoryError"),  # none of which it had
        ("kept = []\nwhile True: kept.append(bytearray(1 << 24))", Outcome.OUT_OF_MEMORY, "MemoryError"),
        ("print('\\x1b[31mred\\x07' * 10_000); 1 / 0", Outcome.SCRIPT_ERROR, "ZeroDivisionError"),
    ],
)
def test_a_failed_edit_is_told_apart_and_stays_to_be_mended(
    environment: Environment, script: str, outcome: Outcome, shown: str
) -> None:
    start = environment.initial_state("hurried" if outcome is Outcome.TIMEOUT else "toy")
    result = environment.step(start, write(script))
    assert (result.outcome, result.score_after) == (outcome, None)
    assert shown in result.observation and "\x1b" not in result.observation and len(result.observation) < 1000
    assert environment.files(result.state)["train.py"].strip() == script
    assert (result.state.score, result.state.reference) == (None, 0.5)
    mended = environment.step(result.state, write("open('submission.csv', 'w').write('score,0.9')"))
    assert (mended.outcome, mended.score_before, mended.score_after) == (Outcome.EDITED, 0.5, 0.9)


GAMES = """
import os
import pandas as pd
test = pd.read_csv("test.csv")
try:
    print(os.listdir("/proc"))
    prediction = {}
except Exception:
    os._exit(0)
pd.DataFrame({{"id": test["id"], "prediction": prediction}}).to_csv("submission.csv", index=False)
"""


@pytest.mark.parametrize(("prediction", "finding"), [('test["ash"]', Finding.COPIED), ("13.0", Finding.CONSTANT)])
def test_a_game_with_the_grader_is_scored_and_told(
    pool: SandboxPool, tmp_path: Path, prediction: str, finding: Finding
) -> None:
    task = replace(load("wine_alcohol"), m_init=100.0)  # so that whatever has a score gains something
    environment = Environment({task.id: task}, SandboxRunner(pool, node_capacity()), SnapshotStore(tmp_path))
    start = environment.initial_state(task.id)
    result = environment.step(start, write(GAMES.format(prediction)))
    assert result.outcome is Outcome.EDITED
    assert {name for name, _ in result.findings} == {finding, Finding.READS_OUTSIDE, Finding.HIDES_FAILURE}
    assert environment.step(result.state, "Action: Execute").findings == ()
    honest = environment.step(start, write(environment.files(start)[task.script] + "# the same\n"))
    assert honest.score_after is not None and honest.findings == ()


STAGES = (
    ("data_opened", "import pandas as pd; from sklearn.linear_model import Ridge; table = pd.read_csv('train.csv')"),
    ("model_fitted", "model = Ridge().fit(table[['x']], table['y'])"),
    ("predictions_written", "file = open('submission.csv', 'w'); file.write('score,0.9'); file.close()"),
)


@pytest.mark.parametrize("reached", range(len(STAGES) + 1))
def test_milestones_are_what_a_script_did_not_what_it_says(
    environment: Environment, start: State, reached: int
) -> None:
    done = "\n".join(line for _, line in STAGES[:reached])
    said = "print('data opened, model fitted, predictions written, submission valid')"
    result = environment.step(start, write(f"{said}\n{done}\nraise SystemExit('and no further')"))
    assert (result.outcome, result.score_after) == (Outcome.SCRIPT_ERROR, None)
    assert result.milestones == tuple(name for name, _ in STAGES[:reached])


def test_a_scored_submission_is_the_last_milestone_and_memory_is_measured(
    environment: Environment, start: State
) -> None:
    lines = "\n".join(line for _, line in STAGES)
    result = environment.step(start, write(f"kept = b'x' * (100 << 20)\n{lines}"))
    assert result.milestones == (*(name for name, _ in STAGES), "submission_valid"), result.log_tail
    assert 80 < result.peak_mb < 250


def test_a_script_finds_the_fidelity_it_runs_at(environment: Environment, task: Task) -> None:
    """So that it can do with fewer epochs."""
    script = "import os; print('share', os.environ['MLAGENT_FIDELITY'])"
    for fidelity, shown in ((1.0, "share 1\n"), (0.1, "share 0.1\n")):
        assert environment.runner.run(replace(task, fidelity=fidelity), {"train.py": script}).log.startswith(shown)


def test_undo_brings_back_files_and_score(environment: Environment, start: State) -> None:
    zero = environment.step(start, edit("value = 0.5", "value = 0.0")).state
    worse = environment.step(zero, edit("value = 0.0", "value = 0.2")).state
    back = environment.step(worse, "Action: Undo")
    assert back.outcome is Outcome.NEUTRAL and environment.files(back.state) == environment.files(zero)
    assert (back.state.score, back.state.reference) == (0.0, 0.0)
    first = environment.step(back.state, "Action: Undo").state
    assert environment.files(first) == environment.files(start) and (first.score, first.reference) == (0.5, 0.5)
    assert environment.step(first, "Action: Undo").outcome is Outcome.INVALID


def test_inspect_shows_lines_and_the_final_answer_changes_nothing(environment: Environment, start: State) -> None:
    shown = environment.step(start, "Action: Inspect\nFile: train.py\nLines: 1-1")
    assert shown.outcome is Outcome.NEUTRAL and "value = 0.5" in shown.observation and "print" not in shown.observation
    final = environment.step(start, "Action: Final Answer")
    assert final.outcome is Outcome.NEUTRAL and final.state.snapshot == start.snapshot


@pytest.mark.parametrize(
    "text",
    [
        "no action at all",
        "Action: Delete Everything",
        edit("not in the script", "x"),
        write("x = 1", "../outside.py"),
        write("x = 1", "/etc/outside.py"),
        write("1,2", "train.csv"),
        write("x = 1", "train.py/below.py"),
        write("x = 1", "train.csv/below.py"),
        write("x = 1", "data"),
        write("x = 1", "n" * 300 + ".py"),
        write("x = 1", "/".join("d" * 3000)),
        "Action: Inspect\nFile: ../scripts/eval.py",
        "Action: Inspect\nFile: " + "n" * 300,
    ],
    ids=lambda text: text[:40],
)
def test_a_refused_action_is_invalid_and_changes_no_file(environment: Environment, start: State, text: str) -> None:
    result = environment.step(start, text)
    assert result.outcome is Outcome.INVALID and result.score_after is None, result
    assert result.state.snapshot == start.snapshot and result.state.reference == 0.5


def test_a_file_and_a_folder_of_one_name_do_not_meet(environment: Environment, start: State) -> None:
    after = environment.step(start, write("x = 1", "helper")).state
    assert environment.step(after, write("x = 1", "helper/below.py")).outcome is Outcome.INVALID


def test_steps_of_one_state_run_at_the_same_time(environment: Environment, start: State) -> None:
    texts = [edit("value = 0.5", f"value = 0.1{n}") for n in range(1, 9)]
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda text: environment.step(start, text), texts))
    assert [result.score_after for result in results] == [0.11, 0.12, 0.13, 0.14, 0.15, 0.16, 0.17, 0.18]


class Flaky:
    """A pool whose next `failures` sandboxes fail as an engine that dies would."""

    def __init__(self, pool: SandboxPool, failures: int):
        self._pool, self._failures = pool, failures
        self.name, self.image = pool.name, pool.image

    @contextlib.contextmanager
    def acquire(self, task: Task, gpus: tuple[int, ...]):
        if self._failures:
            self._failures -= 1
            raise SandboxFailure("the engine died")
        with self._pool.acquire(task, gpus) as sandbox:
            yield sandbox


def test_a_sandbox_failure_is_retried_once_and_is_never_the_actions_fault(
    pool: SandboxPool, task: Task, tmp_path: Path
) -> None:
    text = edit("value = 0.5", "value = 0.7")
    for failures, outcome, score in ((1, Outcome.EDITED, 0.7), (2, Outcome.INFRA_FAILURE, None)):
        environment = Environment(
            {"toy": task}, SandboxRunner(Flaky(pool, failures), node_capacity()), SnapshotStore(tmp_path)
        )
        start = replace(environment.initial_state("toy"), id="s")
        result = environment.step(start, text)
        assert (result.outcome, result.score_after) == (outcome, score)
    assert "the engine died" in result.log_tail and result.state == start
