"""The pool over actors that only pretend, all in this process: what each is told when others come, go and fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from ray.exceptions import OwnerDiedError

from actors.explorer import Explorer
from actors.policy.errors import PolicyDead, PolicyError
from actors.pool import ActorError, ActorPool
from actors.runtime.remote import place
from envs.benchmarks.loader import load
from learner.config.defaults import defaults

M_INIT = {"wine": 0.5}


class Pretended:
    """In the place of an actor: keeps what it was told."""

    def __init__(self, name: str, cfg: Any, tasks: list, model_dir: str, run_dir: str, version: int):
        self.version, self.shared, self.caught_up, self.m_init = version, (1, 0), None, None
        self.closed = self.resting = self.breaks = False
        self.engine: asyncio.Future[dict[str, Any]] = asyncio.Future(loop=place("serial")._loop)
        if starts:
            self.engine.set_result({"engine_seconds": 1.0})
        made[name] = self

    async def start(self) -> dict[str, Any]:
        return {"sandbox": "none", "host": "here", "node": "one", "pid": 0}

    async def serve(self) -> dict[str, Any]:
        return await self.engine

    async def explore(self, task_id: str) -> str:
        return f"tried {task_id}"

    async def share(self, actors: int, position: int) -> None:
        self.shared = actors, position

    async def set_baselines(self, m_init: dict[str, float]) -> None:
        self.m_init = m_init

    async def catch_up(self, m_init: dict[str, float], version: int, buckets: list) -> int:
        self.caught_up = m_init, version, buckets
        self.version = version
        return version

    async def receive(self, version: int, buckets: list) -> float:
        if self.breaks:
            raise PolicyDead("it cannot receive")
        if buckets == ["lost"]:
            raise OwnerDiedError("ab" * 14, None, "")
        self.version = version
        return 0.0

    async def rest(self) -> None:
        if self.breaks:
            raise PolicyDead("it cannot rest")
        self.resting = True

    async def wake(self) -> None:
        if self.breaks:
            raise PolicyDead("it cannot wake")
        self.resting = False

    async def status(self) -> dict[str, int]:
        return {"experiments": 0, "tokens": 0, "version": self.version}

    async def close(self) -> None:
        self.closed = True


made: dict[str, Pretended] = {}
starts = True
"""Whether engines start as soon as they are asked for."""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[int], ActorPool]]:
    pools = []

    def of(count: int) -> ActorPool:
        cfg = defaults()
        cfg.run.mode, cfg.actors.count, cfg.actors.max, cfg.actors.deadline = "serial", count, 4, 10
        pools.append(ActorPool(cfg, [], "", str(tmp_path), 0, lambda _: None, lambda: ["whole"], Pretended))
        pools[-1].started()
        pools[-1].set_baselines(M_INIT)
        return pools[-1]

    made.clear()
    yield of
    for pool in pools:
        pool.close()
    assert all(actor.closed for actor in made.values())


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ActorPool]:
    """A pool of two actors whose engines have not started yet."""
    monkeypatch.setitem(globals(), "starts", False)
    cfg = defaults()
    cfg.run.mode, cfg.actors.count, cfg.actors.deadline = "serial", 2, 10
    made.clear()
    said: list[str] = []
    pool = ActorPool(cfg, [], "", str(tmp_path), 0, said.append, lambda: ["whole"], Pretended)
    pool.exploring()
    yield pool
    pool.close()


def test_actors_explore_before_their_engines_serve(waiting):
    assert sorted(waiting.spread("explore", [("wine",), ("digits",)], each=1)) == [
        (0, "tried wine"), (1, "tried digits"),
    ]  # fmt: skip
    for actor in made.values():
        actor.engine.set_result({"engine_seconds": 7.0})
    assert [said["engine_seconds"] for said in waiting.started().values()] == [7.0, 7.0]


def test_an_engine_that_does_not_start_ends_the_exploration_with_its_reason(waiting):
    made["actor-1"].engine.set_exception(PolicyError("actor-1: vLLM cannot serve this"))
    with pytest.raises(PolicyError, match="actor-1: vLLM cannot serve this"):
        list(waiting.spread("explore", [("wine",)] * 100, each=1))


def test_an_actor_that_dies_while_others_explore_is_replaced_by_one_that_serves_before_it_explores(waiting):
    made["actor-1"].engine.set_exception(PolicyDead("actor-1: its vLLM engine died during start"))
    made["actor-0"].engine.set_result({"engine_seconds": 7.0})
    waiting.check()
    waiting.check()
    assert set(waiting.started()) == {"actor-0"} and made["actor-1"].closed
    made["actor-2"].engine.set_result({"engine_seconds": 7.0})
    until_there_are(2, waiting)
    assert made["actor-2"].caught_up == ({}, 0, [])


def test_engines_that_die_while_a_run_waits_for_them_are_replaced(waiting, monkeypatch):
    """The first to serve of those that come in their places is waited for, too."""
    for actor in list(made.values()):
        actor.engine.set_exception(PolicyDead("its vLLM engine died during start"))
    monkeypatch.setitem(globals(), "starts", True)
    served = waiting.started()
    assert served and set(served) <= {"actor-2", "actor-3"} and made["actor-0"].closed and made["actor-1"].closed
    assert all(said["engine_seconds"] == 1.0 for said in served.values())


def until_there_are(count: int, pool: ActorPool) -> None:
    for _ in range(10):
        pool.check()
    assert pool.activity()["actors_alive"] == count


def shares() -> dict[str, tuple[int, int]]:
    return {name: actor.shared for name, actor in made.items() if not actor.closed}


def test_an_actor_that_joins_knows_what_the_others_know_and_each_has_its_share_of_the_node(started):
    pool = started(2)
    pool.publish(3, ["part"])
    assert [(actor.m_init, actor.version) for actor in made.values()] == [(M_INIT, 3)] * 2
    assert shares() == {"actor-0": (2, 0), "actor-1": (2, 1)}
    pool.resize(3)
    until_there_are(3, pool)
    assert made["actor-2"].caught_up == (M_INIT, 3, ["whole"])
    assert shares() == {"actor-0": (3, 0), "actor-1": (3, 1), "actor-2": (3, 2)}
    pool.resize(1)
    until_there_are(1, pool)
    assert shares() == {"actor-0": (1, 0)}


def test_weights_that_are_lost_with_the_rank_that_made_them_are_asked_for_again_and_nobody_is_replaced(started):
    pool = started(2)
    pool.publish(3, ["lost"])
    assert [(actor.version, actor.closed) for actor in made.values()] == [(3, False)] * 2 and len(made) == 2


class Exploring(Explorer):
    """In the place of an actor without a policy: all of it but its sandboxes."""

    all: ClassVar[dict[str, Exploring]] = {}

    async def start(self) -> dict[str, Any]:
        runner = SimpleNamespace(resize=lambda _: None, expect=lambda _: None, running=0)
        self._environment = SimpleNamespace(runner=runner, tasks=self._tasks, close=lambda: None)
        self.all[self._id] = self
        return {"sandbox": "none", "host": "here", "node": "one", "pid": 0}

    async def status(self) -> dict[str, int]:
        if self._id == "actor-0":
            raise PolicyDead("it broke")
        return await super().status()


def test_one_without_a_policy_is_replaced_by_another_that_knows_the_baselines(tmp_path):
    cfg, said = defaults(), []
    cfg.run.mode, cfg.actors.count, cfg.actors.sequences, cfg.actors.deadline = "serial", 1, 1, 10
    task = load("wine")
    pool = ActorPool(cfg, [task], "", str(tmp_path), 0, said.append, list, Exploring)
    pool.started()
    pool.set_baselines({task.id: 0.5})
    while not said:
        pool.check()
    until_there_are(1, pool)
    assert len(said) == 2 and "it broke; replaced by actor-1" in said[0] and said[1] == "actor-1 joins"
    assert Exploring.all["actor-1"]._tasks[task.id].m_init == 0.5
    pool.close()


def test_an_actor_that_joins_before_anything_was_published_takes_no_weights(started):
    pool = started(1)
    pool.resize(2)
    until_there_are(2, pool)
    assert made["actor-1"].caught_up == (M_INIT, 0, [])


def test_a_number_of_actors_outside_the_bounds_is_refused(started):
    pool = started(1)
    for count in (0, 5):
        with pytest.raises(ActorError, match=f"{count} actors: not within actors.min=1 and actors.max=4"):
            pool.resize(count)


def test_all_rest_and_one_that_cannot_is_replaced_when_they_wake(started):
    pool = started(2)
    made["actor-1"].breaks = True
    pool.rest()
    assert made["actor-0"].resting and set(made) == {"actor-0", "actor-1"}, "the card is another's until they wake"
    assert made["actor-1"].closed
    pool.wake()
    assert not made["actor-0"].resting and "actor-2" in made
    pool.rest()  # waits for the one that starts
    assert made["actor-0"].resting and made["actor-2"].resting and made["actor-2"].caught_up


def test_one_that_ended_in_its_rest_is_replaced_when_the_others_wake(started):
    pool = started(2)
    pool.publish(3, [])
    pool.rest()
    made["actor-1"].breaks = True
    pool.wake()
    assert not made["actor-0"].resting and made["actor-1"].closed
    pool.rest()
    assert made["actor-2"].resting and made["actor-2"].caught_up == (M_INIT, 3, ["whole"])


def test_a_rest_is_not_idleness(started, monkeypatch):
    """Whoever waits for a batch gives up by what actors did since they woke, however long the learner had the card."""
    pool, clock = started(1), time.monotonic
    until_there_are(1, pool)
    pool.rest()
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 3600)
    assert pool.idle_seconds > 3599
    pool.wake()
    assert pool.idle_seconds < 600 and set(made) == {"actor-0"}


def test_a_successor_has_the_whole_deadline(started, monkeypatch):
    """An engine that hangs is found out at its deadline, when nothing was done for as long: that ended the run."""
    pool, clock = started(1), time.monotonic
    until_there_are(1, pool)
    made["actor-0"].breaks = True
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 3600)
    assert pool.idle_seconds > 3599
    pool.publish(1, [])
    assert pool.idle_seconds < 600 and "actor-1" in made


def test_those_that_are_wanted_in_a_rest_start_after_it(started):
    pool = started(1)
    pool.rest()
    pool.resize(3)
    assert set(made) == {"actor-0"} and pool.wanted == 3
    pool.wake()
    assert set(made) == {"actor-0", "actor-1", "actor-2"}


def test_a_pool_that_begins_at_rest_starts_its_actors_when_it_wakes(tmp_path):
    cfg = defaults()
    cfg.run.mode, cfg.actors.count, cfg.actors.deadline = "serial", 2, 10
    made.clear()
    pool = ActorPool(cfg, [], "", str(tmp_path), 0, lambda _: None, list, Pretended, resting=True)
    assert not made
    pool.wake()
    assert set(pool.started()) == set(made) == {"actor-0", "actor-1"}
    pool.close()
