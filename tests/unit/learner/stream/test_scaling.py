"""The number of actors follows the demand and comes to rest."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from omegaconf import read_write

from actors.actor import loops
from learner.config.load import load
from learner.stream import scaling
from learner.stream.scaling import ACTORS_BUSY, ACTORS_WAIT, GROW_STEPS, SHRINK_STEPS, Control, Demand, Scaler
from learner.stream.stream import Account


def simulate(demand: Demand, count: int, seconds: list[float]) -> list[int]:
    """Counts after each learner step; seconds: what an actor needs for a step's batch alone, if the learner needs 1."""
    counts = []
    for alone in seconds:
        sampling = alone / count
        step = max(1.0, sampling)
        count = demand.judge(count, (step - 1.0) / step, 1 - sampling / step, more=True)
        counts.append(count)
    return counts


@pytest.mark.parametrize("alone", [0.3, 0.9, 1.5, 2.9, 4.4, 7.0, 30.0])
def test_it_comes_to_rest_where_neither_waits_long(alone):
    counts = simulate(Demand(1, 8), 1, [alone] * 400)
    assert len(set(counts[-100:])) <= 2
    changes = sum(a != b for a, b in itertools.pairwise(counts[100:]))
    assert changes <= 300 / 20, "it swings"
    assert counts[-1] >= min(8, alone / 2), "the learner waits more than half of the time"


def test_it_follows_the_work():
    counts = simulate(Demand(1, 4), 1, [8.0] * 30 + [0.5] * 200)
    assert counts[29] == 4 and counts[-1] == 1
    assert counts[:31] == sorted(counts[:31])


def test_nothing_is_asked_for_that_would_not_be_used():
    demand = Demand(1, 4)
    assert [demand.judge(1, 0.9, 0.0, more=False) for _ in range(10)] == [1] * 10
    assert [demand.judge(1, 0.9, 0.9, more=True) for _ in range(10)] == [1] * 10  # staleness holds the actors


def test_a_wish_outside_the_bounds_is_refused():
    control = Control(2, 4)

    async def ask() -> None:
        assert await control.scale(4) == 0
        assert await control.wanted(3) == 4
        with pytest.raises(ValueError, match=r"actors.min=2 and actors.max=4"):
            await control.scale(5)
        assert await control.scale(None) == 3
        assert await control.wanted(3) is None

    asyncio.run(ask())


class Pool:
    """The actors, as the scaler sees them."""

    bounds = (1, 8)

    def __init__(self, count: int):
        self.wanted = self.serving = count

    def activity(self) -> dict[str, int]:
        return {"actors_alive": self.serving}

    def resize(self, count: int) -> None:
        self.wanted = self.serving = count


def scaled(pool: Pool, steps: int, learner_waited: float, actors_waited: float, started: int = 8) -> None:
    """Judge that many learner steps of ten seconds; actors_waited: share of the time, of each of an actor's loops."""
    cfg = load(["actors.max=8", "actors.sequences=64", "rl.actions=16", "rl.steps=100", "rl.states=4"])
    with read_write(cfg):
        cfg.run.mode = "serial"  # the scaler's own actor lives in this process
    scaler, stood = Scaler(cfg, pool, lambda text: None), 0.0
    for _ in range(1 + steps):  # the first tells only what was before
        scaler.step(10 * learner_waited, 10.0, Account(started, 0, 0, 0, 0, stood))
        stood += 10 * actors_waited * pool.serving * 5  # an actor samples 64 / 16 groups at once, and one more
    scaler.close()


def test_what_actors_stood_is_judged_per_loop_of_each_of_them():
    pool = Pool(2)
    scaled(pool, GROW_STEPS, 0.8, ACTORS_BUSY - 0.02)
    assert pool.wanted == 3
    scaled(pool, GROW_STEPS, 0.8, ACTORS_BUSY + 0.02)
    assert pool.wanted == 3, "staleness holds the actors: more of them would stand as well"
    scaled(pool, SHRINK_STEPS, 0.0, ACTORS_WAIT - 0.02)
    assert pool.wanted == 3
    scaled(pool, SHRINK_STEPS, 0.0, ACTORS_WAIT + 0.02)
    assert pool.wanted == 2


def test_no_actor_is_asked_for_when_all_groups_have_started():
    pool = Pool(2)
    scaled(pool, GROW_STEPS, 0.8, 0.0, started=100 * 4)
    assert pool.wanted == 2


def test_nothing_is_judged_while_an_actor_is_still_to_come():
    pool = Pool(2)
    pool.serving = 1
    scaled(pool, 5 * GROW_STEPS, 0.8, 0.0)
    assert pool.wanted == 2


def test_a_step_is_judged_by_what_actors_stood_in_it_and_not_in_those_before_that_were_not_judged():
    cfg = load(["actors.max=8", "rl.steps=100"])
    with read_write(cfg):
        cfg.run.mode = "serial"
    pool, stood = Pool(2), 0.0
    scaler = Scaler(cfg, pool, lambda text: None)
    for step in range(20 + GROW_STEPS):
        pool.serving = 1 if 0 < step < 20 else 2  # one is away for a while
        scaler.step(8.0, 10.0, Account(8, 0, 0, 0, 0, stood))
        stood += 10 * 0.1 * 2 * loops(cfg)
    scaler.close()
    assert pool.wanted == 3


class Slow:
    """A place whose actors take long to start: what they are asked is answered when `ready` is set."""

    def __init__(self) -> None:
        self.ready, self.answer = False, None

    def here(self) -> dict:
        return {}

    def spawn(self, *_) -> Slow:
        return self

    @property
    def wanted(self) -> Slow:
        return self

    def remote(self, _: int) -> str:
        return "question"

    def wait(self, refs: list, timeout: float) -> tuple[list, list]:
        assert timeout == 0, "the driver must not wait for it"
        return (refs, []) if self.ready else ([], refs)

    def get(self, ref: str) -> int | None:
        assert self.ready
        return self.answer


def test_a_control_that_still_starts_holds_nobody_up_and_is_heard_later(monkeypatch):
    there, pool = Slow(), Pool(2)
    monkeypatch.setattr(scaling, "place", lambda mode: there)
    scaler = Scaler(load(["actors.max=8"]), pool, lambda text: None)
    scaler.look()
    there.answer = 5
    scaler.look()
    assert pool.wanted == 2
    there.ready = True
    scaler.look()
    assert pool.wanted == 5
