"""Every built-in task keeps its promises, in a real sandbox."""

import dataclasses
import random

import pytest

from actors.expert import builtin as expert
from envs import check
from envs.admission import node_capacity
from envs.benchmarks.loader import about, builtin_tasks, load
from envs.environment import Environment
from envs.experiments import SandboxRunner
from envs.parts import sizes
from envs.records import Outcome, State
from envs.sandbox import SandboxFailure, SandboxPool
from envs.workspace import SnapshotStore

SHORT = 0.05
"""Fidelity at which tasks whose script takes long are tried here."""
EXPERTS = ("wine", "wine_alcohol", "diabetes", "digits", "breast_cancer", "iris_petal")
"""Tasks of the quickstart: every idea of the expert runs on them, and `make test` has no room for the others."""


def in_turn(names: list[str]) -> list:
    return [name if name.partition("@")[0] in EXPERTS else pytest.param(name, marks=pytest.mark.long) for name in names]


NAMES = [name if about(name).limits.seconds < 100 else f"{name}@{SHORT}" for name in builtin_tasks()]


@pytest.fixture(scope="module")
def sandboxes():
    try:
        pool = SandboxPool("process", warm=len(NAMES))
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the process sandbox is not to be had: {reason}")
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def environment(sandboxes, tmp_path_factory):
    """All tasks, those of the quickstart with m_init measured."""
    tasks = {name: load(name) for name in NAMES}
    environment = Environment(
        tasks, SandboxRunner(sandboxes, node_capacity()), SnapshotStore(tmp_path_factory.mktemp("snapshots"))
    )
    for name in EXPERTS:
        environment.tasks[name] = dataclasses.replace(tasks[name], m_init=environment.baseline(name).score_after)
    return environment


def test_there_are_enough_tasks_of_both_splits_and_all_metrics(environment):
    tasks = environment.tasks.values()
    assert sum(task.split == "held_in" for task in tasks) >= 9 and sum(task.split == "held_out" for task in tasks) >= 10
    assert {task.metric for task in tasks} == {
        "accuracy", "AUC", "log loss", "RMSE", "MAE", "RMSLE", "QWK", "MAP@10", "Pearson", "MCRMSE",
    }  # fmt: skip


@pytest.mark.parametrize("name", in_turn(NAMES))
def test_its_authors_checks_find_nothing(environment, sandboxes, name):
    """Answers out of sight, a baseline that can be repeated, a grader that refuses what is wrong, room to improve."""
    task = environment.tasks[name]
    other_seed = SandboxRunner(sandboxes, node_capacity(), seed=1)
    first, again = (Environment({name: task}, runner, environment._snapshots).baseline(name)
                    for runner in (environment.runner, other_seed))  # fmt: skip
    assert check.problems(task, first, again, sandboxes) == []
    m_init = first.score_after
    assert task.direction.sign * (task.m_best - m_init) > 0.05 * abs(m_init)


@pytest.mark.parametrize("name", in_turn(builtin_tasks()))
def test_best_is_what_the_best_script_scores(environment, name):
    task = load(name)
    result = environment.runner.run(task, {task.script: (task.private_dir / "best.py").read_text()})
    assert result.score == pytest.approx(task.m_best, rel=0.01), result.log


@pytest.mark.parametrize("name", builtin_tasks())
def test_origin_licence_and_prompt_are_as_users_need_them(name):
    stated, task = about(name), load(name)
    assert stated.origin and stated.licence and stated.rows
    assert len((task.env_dir / task.script).read_text()) < 900 and len(task.problem) < 400


@pytest.mark.parametrize("name", builtin_tasks())
def test_its_answers_are_divided_into_halves(name):
    halves = sizes(load(name).parts)
    assert abs(halves["validation"] - halves["test"]) <= 1 and min(halves.values()) >= 37


@pytest.mark.parametrize("name", EXPERTS)
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
