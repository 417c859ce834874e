"""Commands of the policy, run for real on every backend: what they change, what they may not, what they leave."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from envs.admission import node_capacity
from envs.environment import Environment
from envs.experiments import SandboxRunner
from envs.records import Direction, Limits, Outcome, State, StepResult, Task
from envs.sandbox import SandboxPool
from envs.workspace import SnapshotStore

SCRIPT = "from notes import value\nopen('submission.csv', 'w').write(f'score,{value}')\n"
GRADER = "def get_score(folder):\n    return float(open(folder + '/submission.csv').read().split(',')[1])\n"
OWN = {"train.py": SCRIPT, "notes.py": "value = 0.5\n", "train.csv": "x,y\n1,2\n", "data/part.csv": "x,y\n3,4\n"}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("task")
    for name, text in {**{f"env/{name}": text for name, text in OWN.items()}, "scripts/eval.py": GRADER}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "scripts" / "answers-top-secret.csv").write_text("TOP SECRET")
    return Task(
        "toy", "problem", folder / "env", folder / "scripts", "train.py", frozenset({"train.csv", "data/part.csv"}),
        "accuracy", Direction.MAXIMIZE, "held_in", Limits(seconds=8, memory_mb=300, disk_mb=32, processes=24), 1.0, 0.5,
        editable=frozenset({"notes.py"}), shell=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def environment(pool: SandboxPool, task: Task, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    runner = SandboxRunner(pool, node_capacity())
    return Environment({"toy": task}, runner, SnapshotStore(tmp_path_factory.mktemp("snapshots")))


@pytest.fixture
def start(environment: Environment) -> State:
    return environment.initial_state("toy")


def shell(environment: Environment, state: State, command: str, how: str = "") -> StepResult:
    return environment.step(state, f"Thought: look\nAction: Shell\n{how}```bash\n{command}\n```")


def test_a_look_around_changes_nothing_and_is_the_observation(environment, start):
    result = shell(environment, start, "head -1 train.csv\necho data/* | tr a-z A-Z\npython3 -c 'import numpy'")
    assert (result.action, result.outcome, result.score_after) == ("shell", Outcome.NEUTRAL, None), result.log_tail
    assert result.observation == "x,y\nDATA/PART.CSV" and result.durations.execute > 0
    assert (result.state.snapshot, result.state.score, result.state.undo) == (start.snapshot, 0.5, ())
    assert shell(environment, start, "grep nothing train.csv").observation == "exit code 1"


def test_a_change_is_an_edit_that_is_scored_and_can_be_undone(environment, start):
    result = shell(environment, start, "sed -i s/0.5/0.7/ notes.py; mkdir lib; echo 1 > lib/one.txt; echo done")
    assert (result.outcome, result.score_before, result.score_after) == (Outcome.EDITED, 0.5, 0.7), result.log_tail
    assert result.observation.startswith("done\nchanged: lib/one.txt, notes.py\naccuracy = 0.7")
    assert environment.files(result.state) == {"train.py": SCRIPT, "notes.py": "value = 0.7\n", "lib/one.txt": "1\n"}
    removed = shell(environment, result.state, "rm -r lib notes.py", "Run: no\n")
    assert environment.files(removed.state) == {"train.py": SCRIPT} and removed.state.unrun == 1
    assert "deleted: lib/one.txt" in removed.observation and "there again, as the task has it: notes.py" in (
        removed.observation
    )
    back = environment.step(removed.state, "Action: Undo").state
    assert environment.files(back)["lib/one.txt"] == "1\n" and back.score == 0.7
    assert environment.files(environment.step(back, "Action: Undo").state) == {"train.py": SCRIPT}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("rm train.csv; echo x,y > train.csv", "train.csv is read-only"),
        ("rm data; mkdir data; echo x > data/part.csv", "data/part.csv is read-only"),
        ("rm data; echo x > data", "data clashes"),
        ("rm train.csv; ln -s /etc/passwd train.csv", "train.csv is read-only"),
        ("rm train.py", "train.py must be there"),
        ("head -c 50000 /dev/zero > notes.py", "notes.py is no text any more"),
        ("for i in $(seq 30); do echo $i > $i.txt; done", "31 files, and at most 20"),
    ],
)
def test_what_may_not_be_changed_refuses_the_whole_command(environment, start, command, reason):
    result = shell(environment, start, f"sed -i s/0.5/0.9/ notes.py\n{command}")
    assert (result.outcome, result.score_after) == (Outcome.INVALID, None) and reason in result.observation
    assert result.state.snapshot == start.snapshot
    after = shell(environment, result.state, "cat train.csv data/part.csv notes.py")
    assert after.observation.split() == ["x,y", "1,2", "x,y", "3,4", "value", "=", "0.5"]


def test_what_no_state_can_hold_is_named_and_the_rest_kept(environment, start):
    command = "ln -s /etc/passwd stolen.txt; head -c 9 /dev/urandom > model.pkl; mkfifo p; touch .x; echo 1 > ok.txt"
    result = shell(environment, start, f"{command}; echo 'score,0.9' > submission.csv")
    assert result.score_after == 0.5, "only the script hands in predictions"
    assert set(environment.files(result.state)) == {"train.py", "ok.txt"}
    assert "not kept" in result.observation and ".x, model.pkl" in result.observation
    assert "stolen.txt" in result.observation and "submission" not in result.observation


@pytest.mark.parametrize(
    ("command", "outcome", "shown"),
    [
        ("sed -i s/0.5/0.9/ notes.py; sleep 30", Outcome.TIMEOUT, "stopped after 8 s"),
        ("python3 -c 'kept = []\nwhile True: kept.append(bytes(1 << 24))'; exit 137", None, ""),
        ("head -c 90000000 /dev/zero > big", None, ""),
    ],
)
def test_limits_hold_for_commands(environment, start, command, outcome, shown):
    result = shell(environment, start, command)
    assert result.outcome is (outcome or result.outcome) and shown in result.observation
    assert result.state.snapshot == start.snapshot and result.peak_mb < 400
    assert shell(environment, start, "echo *").observation == "data notes.py train.csv train.py"


def test_nothing_outlives_commands(environment, start):
    begun = time.monotonic()
    result = shell(environment, start, "(sleep 60; echo late > late.txt) & setsid sleep 61 & echo x > /tmp/x; echo y")
    assert result.observation == "y" and time.monotonic() - begun < 30
    again = shell(environment, start, "cat /tmp/x; set -- /proc/[0-9]*; echo $#; ls")
    assert "No such file" in again.observation and "late.txt" not in again.observation
    assert int(again.observation.splitlines()[1]) <= 3, "the runner and bash; bubblewrap's own"


def test_answers_are_out_of_reach_of_commands(environment, start, task):
    looks = (
        f"cat {task.private_dir}/* ../scripts/*; grep -rl 'TOP SEC' /task /tmp .; find / -maxdepth 2 -name '*op-sec*'"
    )
    result = shell(environment, start, f"({looks}) 2>/dev/null; echo looked")
    assert result.observation == "looked"


def test_commands_are_refused_where_the_task_does_not_allow_them(pool, task, tmp_path):
    plain = Environment(
        {"toy": replace(task, shell=False)}, SandboxRunner(pool, node_capacity()), SnapshotStore(Path(tmp_path))
    )
    result = shell(plain, plain.initial_state("toy"), "ls")
    assert (result.outcome, result.fault) == (Outcome.INVALID, "unknown_action") and "Shell" not in result.observation
