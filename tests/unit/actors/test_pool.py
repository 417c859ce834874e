"""The pool over actors that only pretend, all in this process: what each is told when others come, go and fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from actors.pool import ActorError, ActorPool
from learner.config.schema import Config

M_INIT = {"wine": 0.5}


class Pretended:
    """In the place of an actor: keeps what it was told."""

    def __init__(self, name: str, cfg: Any, tasks: list, model_dir: str, run_dir: str, version: int):
        self.version, self.shared, self.caught_up, self.m_init = version, (1, 0), None, None
        self.closed = False
        made[name] = self

    async def start(self) -> dict[str, Any]:
        return {"sandbox": "none", "host": "here", "node": "one", "pid": 0}

    async def share(self, actors: int, position: int) -> None:
        self.shared = actors, position

    async def set_baselines(self, m_init: dict[str, float]) -> None:
        self.m_init = m_init

    async def catch_up(self, m_init: dict[str, float], version: int, buckets: list) -> int:
        self.caught_up = m_init, version, buckets
        self.version = version
        return version

    async def receive(self, version: int, buckets: list) -> None:
        self.version = version

    async def status(self) -> dict[str, int]:
        return {"experiments": 0, "tokens": 0, "version": self.version}

    async def close(self) -> None:
        self.closed = True


made: dict[str, Pretended] = {}


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[int], ActorPool]]:
    pools = []

    def of(count: int) -> ActorPool:
        cfg = OmegaConf.structured(Config)
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
