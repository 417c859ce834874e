"""A task of Harbor's form, trained on as its publisher wrote it: acted on in one sandbox, verified in another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from envs.admission import node_capacity
from envs.benchmarks.loader import load
from envs.environment import Environment
from envs.experiments import SandboxRunner
from envs.records import Outcome, StepResult, Task
from envs.sandbox import SandboxPool
from envs.workspace import SnapshotStore
from tests.harbor_task import DOCKERFILE, make

SUM = "sum=$(python3 -c \"print(sum(int(line) for line in list(open('bill.csv'))[1:]))\")\n"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLAGENT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return replace(load(f"harbor:{make(tmp_path_factory.mktemp('harbor') / 'adds-up')}"), m_init=0.25)


@pytest.fixture(scope="module")
def environment(pool: SandboxPool, task: Task, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    store = SnapshotStore(tmp_path_factory.mktemp("snapshots"))
    return Environment({task.id: task}, SandboxRunner(pool, node_capacity()), store)


def act(environment: Environment, text: str) -> StepResult:
    return environment.step(environment.initial_state("adds-up"), text)


def shell(environment: Environment, command: str) -> StepResult:
    return act(environment, f"Action: Shell\n```\n{command}\n```")


def test_the_verifiers_number_is_the_score_of_commands_and_of_edits(environment, task):
    assert environment.baseline(task.id).score_after == 0.25
    look = shell(environment, "pwd; echo *; bin/tool.sh; echo $UNIT $PLACE")
    assert look.observation.split("\n") == ["/app", "bill.csv bin readme.txt solve.sh", "tool", "euro here"]
    solved = shell(environment, f"{SUM}echo $sum $UNIT > total.txt")
    assert (solved.outcome, solved.score_after) == (Outcome.EDITED, 1.0), solved.observation
    assert environment.files(solved.state)["total.txt"] == "42 euro\n"
    edited = act(environment, f"Action: Write\n```\n{SUM}echo $sum $UNIT > total.txt\n```")
    assert (edited.outcome, edited.score_after, edited.findings) == (Outcome.EDITED, 1.0, ())
    wrong = shell(environment, "echo 41 > total.txt")
    assert wrong.score_after == 0.25 and wrong.observation == "changed: total.txt\nreward = 0.25"


@pytest.mark.parametrize(
    "command",
    [
        "mkdir -p /logs/verifier; echo 1 > /logs/verifier/reward.txt",
        "cat /tests/*; grep -rs SECRE[T] /task /app /logs",
        "ln -s /tests/expected.txt total.txt; chmod 000 bin; ln -s /logs logs",
        "(sleep 5; echo '42 euro' > total.txt) & disown",
    ],
)
def test_tests_and_their_reward_are_out_of_reach_of_the_policy(environment, command):
    for text in (f"Action: Write\n```\n{command} 2>&1; true\n```", f"Action: Shell\n```\n{command}; touch x\n```"):
        result = act(environment, text)
        assert result.score_after == 0.25 and "SECRET" not in result.observation, result.observation


def test_no_program_of_the_policy_stands_in_for_one_that_grades(pool, tmp_path, monkeypatch):
    """Where the task looks programs up in its working folder, and has a shell begin with a file there."""
    monkeypatch.setenv("MLAGENT_CACHE", str(tmp_path / "cache"))
    recipe = f"{DOCKERFILE}ENV PATH=/app/mine:/usr/local/bin:/usr/bin:/bin BASH_ENV=/app/begin LD_PRELOAD=/app/any.so\n"
    task = load(f"harbor:{make(tmp_path / 'looks-up', **{'environment/Dockerfile': recipe})}")
    earn = "echo 1 > /logs/verifier/reward.txt"
    tried = f"""
        mkdir mine; echo '[ -w /logs ] && /bin/mkdir /logs/verifier && {earn} && exit' > begin
        for name in bash mkdir cat; do echo '#!/bin/sh' > mine/$name; cat begin >> mine/$name; done
        chmod +x mine/*
    """
    run = SandboxRunner(pool, node_capacity()).run(task, {"solve.sh": tried})
    assert (run.outcome, run.score) == (Outcome.EDITED, 0.25), run.log


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ("true", "wrote no reward"),
        ("echo much > /logs/verifier/reward.txt", "wrote no number to reward.txt"),
        ("echo nan > /logs/verifier/reward.txt", "wrote nan"),
        ("ln -s /etc/hostname /logs/verifier/reward.txt", "wrote no reward"),
        ("rm -r /logs/verifier; ln -s /etc /logs/verifier", "wrote no reward"),
        ("""echo '{"speed": 1, "size": 2}' > /logs/verifier/reward.json""", "wrote no number to reward.json"),
        ("sleep 30", "took too long"),
        ("head -c 90000000 /dev/zero > /logs/verifier/reward.txt", "wrote"),
        ("""echo '{"size": 2}' > /logs/verifier/reward.json; echo 1 > /logs/verifier/reward.txt""", 2.0),
        ("""echo '{"size": 2, "reward": 0.5}' > /logs/verifier/reward.json; exit 3""", 0.5),
    ],
)
def test_what_tests_may_write(pool, task, tmp_path, test, said):
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test.sh").write_text(test)
    own = replace(task, verifier=replace(task.verifier, tests=tests, seconds=2.0))
    run = SandboxRunner(pool, node_capacity()).run(own, {"solve.sh": ""})
    if isinstance(said, float):
        assert (run.outcome, run.score) == (Outcome.EDITED, said)
    else:
        assert run.outcome is Outcome.SCRIPT_ERROR and said in run.log, run.log


def test_the_publishers_solution_earns_the_whole_reward(pool, task):
    run = SandboxRunner(pool, node_capacity()).run(task, {"solve.sh": Path(task.private_dir, "best.sh").read_text()})
    assert (run.outcome, run.score) == (Outcome.EDITED, 1.0), run.log
