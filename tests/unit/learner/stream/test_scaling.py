"""The number of actors follows the demand and comes to rest."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from learner.stream.scaling import Control, Demand


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
