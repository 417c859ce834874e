"""What the user is told of differences that cost more than they save."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from learner.ranks import publisher
from learner.ranks.publisher import Publisher
from learner.ranks.rank import Published
from learner.ranks.turns import Turns

EVERY = 3


class Sides:
    """In the place of learner and actors: versions take their time, the first one most."""

    def __init__(self, as_differences: float, in_full: float):
        self.cfg = SimpleNamespace(
            learner=SimpleNamespace(transfer="object_store"), actors=SimpleNamespace(colocate=False),
            run=SimpleNamespace(mode="serial"),
        )  # fmt: skip
        self._seconds = {True: as_differences, False: in_full}
        self.now = 0.0

    def publish(self, *call: Any) -> Any:
        if isinstance(call[1], list):  # the actors
            return 0.25 if call[0] % EVERY else 0.0
        version = call[1]
        differs = version > 1 and version % EVERY > 0
        self.now += self._seconds[differs] if version > 1 else 60.0
        return Published([], 10 if differs else 100, 100, 0.125 if differs else 0.0)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Any:
    def of(as_differences: float, in_full: float) -> list[str]:
        sides, said = Sides(as_differences, in_full), []
        monkeypatch.setattr(publisher.time, "monotonic", lambda: sides.now)
        one = Publisher(sides, sides, Turns(sides, sides), said.append)
        for _ in range(20):
            one.publish()
        assert one.figures() == {
            "publish_seconds": as_differences, "publish_mb": 10 / 1e6, "publish_share": 0.1,
            "publish_making_seconds": 0.125, "publish_restoring_seconds": 0.25,
        }  # fmt: skip
        return said

    return of


def test_differences_that_take_longer_than_full_weights_are_told_once_with_what_they_cost(told):
    assert told(2.0, 0.5) == [
        "weights are served 2.00 s after a step where they travel as differences (0.12 s to make them, 0.25 s to "
        "restore them), 0.50 s where they travel in full: learner.full_every=1 is faster here"
    ]


def test_differences_that_save_time_are_not_complained_of(told):
    assert told(0.5, 2.0) == []
