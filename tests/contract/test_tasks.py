"""Every built-in task keeps its promises, in a real sandbox: so does the command line that shows them."""

import dataclasses
import random

import pandas as pd
import pytest

from actors import expert
from envs.admission import node_capacity
from envs.environment import Environment
from envs.experiments import SandboxRunner
from envs.loader import builtin_tasks, load
from envs.records import Outcome, State
from envs.sandbox import SandboxPool
from envs.workspace import SnapshotStore

NAMES = builtin_tasks()


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """All tasks, with m_init measured."""
    tasks = {name: load(name) for name in NAMES}
    runner = SandboxRunner(SandboxPool("process", warm=len(NAMES)), node_capacity())
    environment = Environment(tasks, runner, SnapshotStore(tmp_path_factory.mktemp("snapshots")))
    for name, task in tasks.items():
        environment.tasks[name] = dataclasses.replace(task, m_init=environment.baseline(name).score_after)
    yield environment
    environment.close()


def write(text: str) -> str:
    return f"Action: Write\n```\n{text}```\n"


def test_there_are_enough_tasks_of_both_splits_and_directions(environment):
    tasks = environment.tasks.values()
    assert sum(task.split == "held_in" for task in tasks) >= 4 and sum(task.split == "held_out" for task in tasks) >= 2
    assert len({task.metric for task in tasks}) >= 5 and len({task.direction for task in tasks}) == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_baseline_is_reproducible_and_leaves_room(environment, name):
    task = environment.tasks[name]
    again = environment.baseline(name)
    assert again.outcome is Outcome.NEUTRAL and again.score_after == task.m_init
    assert task.direction.sign * (task.m_best - task.m_init) > 0.05 * abs(task.m_init)


@pytest.mark.parametrize("name", NAMES)
def test_best_is_what_the_best_script_scores(environment, name):
    task = environment.tasks[name]
    result = environment.step(environment.initial_state(name), write((task.private_dir / "best.py").read_text()))
    assert result.score_after == pytest.approx(task.m_best, rel=0.01), result.log_tail


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_the_agent_sees_tells_the_answers(environment, name):
    task = environment.tasks[name]
    answers = pd.read_csv(task.private_dir / "answers.csv")
    test = pd.read_csv(task.env_dir / "test.csv")
    assert "target" not in test and sorted(test["id"]) == sorted(answers["id"])
    assert not list(task.env_dir.rglob("answers*"))
    assert abs(answers["target"].corr(answers["id"])) < 0.3  # neither id nor order helps
    train = pd.read_csv(task.env_dir / "train.csv")
    assert not set(train["id"]) & set(test["id"]) and set(train) == {*test, "target"}


@pytest.mark.parametrize("name", NAMES)
def test_ideas_of_the_expert_run_and_some_improve(environment, name):
    task, state, rng = environment.tasks[name], environment.initial_state(name), random.Random(0)
    gains = []
    for _ in range(8):
        text = expert.propose(task, state, environment.files(state), rng, mistakes=0)
        result = environment.step(state, text)
        assert result.outcome is Outcome.EDITED, f"{text}\n{result.log_tail}"
        gains.append(task.direction.sign * (result.score_after - task.m_init))
    assert max(gains) > 0 and len(set(gains)) >= 5


def test_mistakes_of_the_expert_fail_and_it_recovers(environment):
    rng, fresh = random.Random(0), environment.initial_state("wine")
    state: State = fresh
    for _ in range(8):
        result = environment.step(
            fresh, expert.propose(environment.tasks["wine"], fresh, environment.files(fresh), rng, mistakes=1)
        )
        assert result.outcome in (Outcome.INVALID, Outcome.SCRIPT_ERROR), result.action
        state = result.state if result.outcome is Outcome.SCRIPT_ERROR else state
    assert state.history and state.score is None
    result = environment.step(
        state, expert.propose(environment.tasks["wine"], state, environment.files(state), random.Random(1), mistakes=0)
    )
    assert result.state.score is not None
