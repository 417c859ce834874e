"""A cluster of one's own that does not start in Ray's time is started once more; what fails is said once."""

from __future__ import annotations

import signal

import pytest

from envs.benchmarks.loader import load
from envs.records import Durations, Outcome, State, StepResult, Withheld
from learner.config.defaults import defaults
from learner.run import preparation
from learner.run.preparation import ClusterError, connect, places

SLOW = Exception("The current node timed out during startup. This could happen because …\nmore")


@pytest.fixture
def begun(monkeypatch) -> list[str]:
    """Addresses that Ray was asked for."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return []


def fails(monkeypatch, begun: list[str], *errors: Exception) -> None:
    """Ray's first starts end so."""
    left = list(errors)

    def init(address: str, **_) -> None:
        begun.append(address)
        if left:
            raise left.pop(0)

    monkeypatch.setattr(preparation.ray, "init", init)


def test_ray_may_be_late_once(monkeypatch, begun):
    fails(monkeypatch, begun, SLOW)
    connect(defaults())
    assert begun == ["local", "local"]


@pytest.mark.parametrize(
    ("address", "errors", "times", "said"),
    [
        (None, [SLOW, SLOW], 2, "Ray does not start on this machine .*: The current node timed out during startup"),
        (None, [OSError("no room in /dev/shm")], 1, "no room in /dev/shm$"),
        ("10.0.0.1:6379", [SLOW], 1, "RAY_ADDRESS=10.0.0.1:6379 cannot be joined; .* The current node timed out"),
    ],
)
def test_what_fails_again_or_otherwise_is_said(monkeypatch, begun, address, errors, times, said):
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    fails(monkeypatch, begun, *errors)
    with pytest.raises(ClusterError, match=said):
        connect(defaults())
    assert len(begun) == times


def test_where_experiments_run_is_said_once_for_each_machine_and_sandbox():
    here = {"sandbox": "docker", "host": "a"}
    about = {"actor-0": here, "actor-1": {"sandbox": "process", "host": "b"}, "actor-2": here}
    assert list(places(about)) == [
        "experiments of 2 actors run in the docker sandbox on a",
        "experiments of 1 actor run in the process sandbox on b",
    ]


@pytest.mark.parametrize(("apart", "on_test"), [(True, 0.25), (False, None)])
def test_baselines_have_a_figure_on_test_only_where_answers_are_tests_alone(apart, on_test):
    task = load("wine")
    result = StepResult(
        "run",
        Outcome.EDITED,
        None,
        0.5,
        "",
        "",
        Durations(),
        State("s", task.id, ""),
        withheld=Withheld(0.25, apart=apart),
    )
    told = {}

    class Actors:
        first = staticmethod(lambda asked: {task.id: result})
        set_baselines = told.update

    measured = preparation.measure({task.id: task}, Actors())[task.id]
    assert (measured.m_init, measured.m_init_test) == (0.5, on_test) and told == {task.id: 0.5}
