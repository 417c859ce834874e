"""Our tasks as an environment of verifiers: of the package where it is installed, else of what it publishes."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from envs.benchmarks.loader import load
from envs.errors import TaskError
from envs.records import Outcome
from envs.sandbox import SandboxFailure, SandboxPool
from tests import verifiers_stand_in

BEST = (load("wine").private_dir / "best.py").read_text()
WRITE, DONE, TALK = f"Action: Write\n```\n{BEST}\n```", "Action: Final Answer", "Let me think about it."


@pytest.fixture(scope="module")
def vf(tmp_path_factory: pytest.TempPathFactory):
    """The package, with a user's module of our tasks on the path."""
    there = importlib.util.find_spec("verifiers")
    package = importlib.import_module("verifiers.v1") if there else verifiers_stand_in.install()
    folder = tmp_path_factory.mktemp("user")
    exported = "from actors.verifiers_env import Episodes, Tasks\n__all__ = ['Episodes', 'Tasks']\n"
    (folder / "mlagent_tasks.py").write_text(exported)
    sys.path.insert(0, str(folder))
    yield package
    sys.path.remove(str(folder))
    for name in ("mlagent_tasks", "actors.verifiers_env", *(() if there else ("verifiers", "verifiers.v1"))):
        sys.modules.pop(name, None)


def environment(vf, **changed):
    try:
        SandboxPool("process").close()
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the process sandbox is not to be had: {reason}")
    tasks = {"id": "mlagent-tasks", "tasks": ["wine"], "sandbox": "process", **changed.pop("taskset", {})}
    return vf.load_environment(vf.resolve_env_config({"taskset": tasks, **changed}))


class Policy:
    """In the place of a model: says these replies, one a turn, and then the exchange is over."""

    def __init__(self, *replies: str):
        self.replies, self.asked, self.rewards, self.metrics = list(replies), [], {}, {}
        self.policy = self.trace = self

    @contextlib.asynccontextmanager
    async def interaction(self, task):
        yield self

    async def turn(self, message: str | None = None):
        self.asked.append(message)
        said = self.replies.pop(0) if self.replies else None
        return SimpleNamespace(terminated=said is None, last_reply=said)

    def record_reward(self, name: str, value: float, weight: float = 1.0) -> None:
        self.rewards[name] = value

    def record_metric(self, name: str, value: float) -> None:
        self.metrics[name] = value


def play(env, task, *policies: Policy) -> None:
    async def episodes() -> None:
        async with env.serving():
            await asyncio.gather(*(env.run(task, policy) for policy in policies))

    asyncio.run(episodes())


def test_actions_are_carried_out_and_rewarded_as_here(vf):
    env = environment(vf, actions=3, version="v2")
    (task,) = env.taskset
    assert (task.data.name, task.data.idx, task.key) == ("wine", 0, "wine") and "train.py" in task.data.prompt
    assert task.data.system_prompt and math.isclose(task.data.start, 1.164, rel_tol=1e-3)
    solves, talks, ends, silent = Policy(WRITE, DONE, TALK), Policy(*[TALK] * 4), Policy(DONE), Policy()
    play(env, task, solves, talks, ends, silent)
    assert math.isclose(solves.rewards["reward"], 0.5, rel_tol=1e-4) and solves.replies == [TALK]
    assert math.isclose(solves.metrics["best_score"], load("wine").m_best, rel_tol=1e-3)
    assert solves.asked[0] is None and "QuadraticDiscriminantAnalysis" in solves.asked[1]
    assert (talks.rewards["reward"], talks.metrics["actions"], len(talks.asked)) == (-1.0, 3, 3)
    assert "invalid action" in talks.asked[1]
    assert (ends.rewards["reward"], silent.rewards["reward"], silent.metrics["actions"]) == (0.0, 0.0, 0)


def test_a_failure_of_the_sandbox_is_no_reward(vf, monkeypatch):
    env = environment(vf)
    (task,) = env.taskset

    async def episode() -> Policy:
        async with env.serving():
            fails = env._played.step
            monkeypatch.setattr(
                env._played, "step", lambda *given: replace(fails(*given), outcome=Outcome.INFRA_FAILURE)
            )
            policy = Policy(DONE)
            with pytest.raises(vf.SandboxError):
                await env.run(task, policy)
            return policy

    assert asyncio.run(episode()).rewards == {}


def test_what_cannot_be_played_is_told_when_it_is_loaded(vf):
    with pytest.raises(TaskError, match="no task 'wein'"):
        list(environment(vf, taskset={"tasks": ["wein"]}).taskset)
