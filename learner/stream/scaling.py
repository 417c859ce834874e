"""How many actors a run has: what a person asked for while it runs, otherwise what the waiting of both sides says.

Invariants: the number stays within `actors.min` and `actors.max`; while actors are still to come nothing is judged; a
number that was too small once is not gone below again for `HOLD_STEPS`, so that the pool does not swing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayError

from actors.actor import loops
from actors.pool import ActorPool
from actors.runtime.remote import place
from learner.stream.stream import Account

CONTROL = "control"
"""Last part of the name of a run's `Control`."""
GROW_STEPS, SHRINK_STEPS, HOLD_STEPS = 2, 4, 40
"""Learner steps in a row that must say so, and those for which a number that was too small is remembered."""
LEARNER_WAITS, LEARNER_BUSY = 0.5, 0.1
"""Share of a step that the learner waits for a batch: above, actors are too few; below, they may be too many."""
ACTORS_BUSY, ACTORS_WAIT = 0.25, 0.6
"""Share of the time that actors stand at admission: below, more would help; above, fewer would do."""
GROWTH = 1.5


class Demand:
    """Judges after each learner step how many actors are needed."""

    def __init__(self, least: int, most: int):
        self._least, self._most = least, most
        self._longing = self._idling = self._steps = 0
        self._too_few, self._until = 0, 0

    def judge(self, count: int, learner_waits: float, actors_wait: float, more: bool) -> int:
        """How many there should be.

        count: of those that serve; learner_waits, actors_wait: shares of the step's time, in [0, 1]; more: whether
        groups are left that have not started.
        """
        self._steps += 1
        self._longing = self._longing + 1 if learner_waits > LEARNER_WAITS and actors_wait < ACTORS_BUSY and more else 0
        self._idling = self._idling + 1 if learner_waits < LEARNER_BUSY and actors_wait > ACTORS_WAIT else 0
        least = max(self._least, self._too_few + 1 if self._steps < self._until else 0)
        if self._longing >= GROW_STEPS and count < self._most:
            self._too_few, self._until, self._longing = count, self._steps + HOLD_STEPS, 0
            return min(self._most, math.ceil(count * GROWTH))
        if self._idling >= SHRINK_STEPS and count > least:
            self._idling = 0
            return count - 1
        return count


class Control:
    """What a person can ask of a running job (`python -m cluster.scale`); an actor that its driver looks at."""

    def __init__(self, least: int, most: int):
        self._least, self._most = least, most
        self._wanted: int | None = None
        self._serving = 0

    async def scale(self, count: int | None) -> int:
        """Have `count` actors from now on, or as many as are needed; returns how many serve now.

        Raises:
            ValueError: it is not within `actors.min` and `actors.max`.
        """
        if count is not None and not self._least <= count <= self._most:
            raise ValueError(f"{count} actors: not within actors.min={self._least} and actors.max={self._most}")
        self._wanted = count
        return self._serving

    async def wanted(self, serving: int) -> int | None:
        """For the driver, which tells how many serve."""
        self._serving = serving
        return self._wanted


class Scaler:
    """Changes the pool's size."""

    def __init__(self, cfg: Any, actors: ActorPool, say: Callable[[str], None]):
        self._actors, self._say, self._place = actors, say, place(cfg.run.mode)
        least, most = actors.bounds
        self._demand = Demand(least, most) if cfg.actors.max else None
        self._total, self._loops = cfg.rl.steps * cfg.rl.states, loops(cfg)
        self._waited: float | None = None
        self._asked: int | None = None
        self._question: Any = None
        """What the control was asked and has not answered yet."""
        options = {"name": f"{cfg.run.name}/{CONTROL}", "num_cpus": 0, **self._place.here()}
        self._control = self._place.spawn(Control, options, least, most)

    def look(self) -> None:
        """Do what a person asked for; called often, and never waits: the answer may come with a later call."""
        if self._question is None:
            self._question = self._control.wanted.remote(self._serving)
        if not self._place.wait([self._question], timeout=0)[0]:
            return
        answer, self._question = self._question, None
        try:
            self._asked = self._place.get(answer)
        except RayError:
            return  # a run does not end for it
        if self._asked is not None:
            self._resize(self._asked, "as asked for")

    def step(self, learner_waited: float, seconds: float, account: Account) -> None:
        """Judge the demand after a learner step that took `seconds`, `learner_waited` of them for its batch."""
        before, self._waited = self._waited, account.actors_waited
        serving = self._serving
        if before is None or not self._demand or self._asked is not None or serving != self._actors.wanted:
            return
        stood = (account.actors_waited - before) / (seconds * serving * self._loops)
        wanted = self._demand.judge(serving, learner_waited / seconds, stood, account.started < self._total)
        self._resize(wanted, f"the learner waits {learner_waited / seconds:.0%} of the time, actors {stood:.0%}")

    @property
    def _serving(self) -> int:
        return self._actors.activity()["actors_alive"]

    def _resize(self, count: int, why: str) -> None:
        if count != self._actors.wanted:
            self._say(f"from {self._actors.wanted} to {count} actors: {why}")
            self._actors.resize(count)

    def close(self) -> None:
        self._place.kill(self._control)
