"""The serial mode: objects of this process that are called as Ray actors are."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from ray.exceptions import GetTimeoutError, RayTaskError

from actors.runtime.remote import InProcess


class Counter:
    def __init__(self, start: int):
        self.count = start
        self.changed = asyncio.Event()

    async def reach(self, wanted: int) -> int:
        while self.count < wanted:
            self.changed.clear()
            await self.changed.wait()
        return self.count

    def add(self, more: int) -> int:
        self.count += more
        self.changed.set()
        return self.count

    async def add_to(self, other: InProcess, more: int) -> int:
        return await other.add.remote(more)

    async def refuse(self) -> None:
        raise ValueError("no")


@pytest.fixture
def place() -> InProcess:
    return InProcess()


def test_a_call_waits_for_another_as_two_processes_would(place):
    first, second = (place.spawn(Counter, {}, start) for start in (0, 5))
    reached = first.reach.remote(2)
    assert place.wait([reached], timeout=0) == ([], [reached])
    with pytest.raises(GetTimeoutError):
        place.get(reached, timeout=0.01)
    assert place.get(second.add_to.remote(first, 2)) == 2
    assert place.get([reached, second.add.remote(1)]) == [2, 6]


def test_a_failure_is_rays_and_of_its_own_class(place):
    failed = place.spawn(Counter, {}, 0).refuse.remote()
    with pytest.raises(ValueError) as caught:
        place.get(failed)
    assert isinstance(caught.value, RayTaskError) and str(caught.value.cause) == "no"


def test_what_was_put_is_not_shared_with_who_put_it(place):
    mine = np.zeros(3)
    put = place.put(mine)
    mine += 1
    assert place.get(put).sum() == 0


def test_a_killed_object_does_no_more(place):
    counter = place.spawn(Counter, {}, 0)
    reached = counter.reach.remote(1)
    place.get(place.spawn(Counter, {}, 0).reach.remote(0))
    place.kill(counter)
    counter.add.remote(1)
    assert place.wait([reached], timeout=1)[0] == [reached]
    with pytest.raises(asyncio.CancelledError):
        place.get(reached)
