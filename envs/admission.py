"""Admission: which experiment starts next on a share of a node, so that no more run at once than fit.

An experiment asks for its task's CPUs, memory and GPUs. Those that wait are ordered by how long they are expected to
take plus how long they have waited: long ones first, so that none is left to run alone at the end, and short ones are
passed over for a bounded time only. Invariants: what is in use never exceeds the capacity; nobody passes the first in
line, so a large experiment is not starved by small ones, but that while it waits for cards those that need none go on;
what is to run alone passes the line, and nothing runs beside it; an experiment that could never fit is refused at once,
and one that was not admitted in time never is.
"""

from __future__ import annotations

import collections
import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from envs import machine
from envs.errors import UserError
from envs.records import Limits

RECENT = 0.3
"""Weight of the newest duration in the running estimate of a task's."""


class AdmissionError(UserError):
    """An experiment that asks for more than there is; the message names what and the setting."""


class Late(Exception):
    """An experiment that has waited for as long as it may."""


@dataclass(frozen=True)
class Capacity:
    """What the experiments of one actor may use together."""

    cpus: float
    memory_mb: float
    gpus: tuple[int, ...] = ()
    """Ids of the GPUs that experiments may have; each goes to one experiment at a time, or to as many as it is named
    times."""

    def holds(self, need: Limits) -> int:
        """How many such experiments have enough CPUs and memory beside each other."""
        return int(min(self.cpus / need.cpus, self.memory_mb / need.memory_mb))

    def sets_of_gpus(self, number: int) -> list[tuple[int, ...]]:
        """The GPUs, so many to an experiment; without any, one set of none."""
        if not number:
            return [()]
        cards = self.cards()
        return [cards[start : start + number] for start in range(0, len(cards) - number + 1, number)]

    def cards(self) -> tuple[int, ...]:
        """The GPUs, each once."""
        return tuple(dict.fromkeys(self.gpus))

    def beside(self, need: Limits, gpus: tuple[int, ...]) -> int:
        """How many such experiments on these GPUs are possible beside each other."""
        return min([self.holds(need), *map(self.gpus.count, gpus)])


def node_capacity(actors: int = 1) -> Capacity:
    """An equal share of this node for each of the actors on it: its cores, and half of its memory."""
    return Capacity(max(1.0, machine.cores() / actors), machine.memory_mb() / 2 / actors)


@dataclass(eq=False)
class _Waiting:
    need: Limits
    estimate: float
    since: float
    alone: bool

    @property
    def urgency(self) -> float:
        """Seconds that it will take and has waited, but for the time now, which is the same for all."""
        return math.inf if self.alone else self.estimate - self.since


class Admission:
    """Lets threads through when their experiment fits."""

    def __init__(self, capacity: Capacity, clock: Callable[[], float] = time.monotonic):
        self.capacity, self._clock = capacity, clock
        self._cpus, self._memory_mb = 0.0, 0.0
        self._gpus: collections.Counter[int] = collections.Counter()
        """That experiments have, also those that this share has lost meanwhile."""
        self._line: list[_Waiting] = []
        self._changed = threading.Condition()
        self._estimates: dict[str, float] = {}
        self._most: int | None = None
        self._alone = False
        """The experiment that runs is to have nothing beside it."""
        self.running = 0
        """Experiments admitted now."""

    @contextlib.contextmanager
    def admit(
        self, key: str, need: Limits, alone: bool = False, patience: float | None = None
    ) -> Iterator[tuple[int, ...]]:
        """Wait until the experiment may start, and hold its share for as long as the context lasts.

        key: names experiments of like duration; until one has ended, they are expected to take their time limit; alone:
        it is next, as soon as nothing runs any more, and nothing starts before it has ended; patience: most seconds to
        wait. Yields the ids of its GPUs.

        Raises:
            AdmissionError: it asks for more than the whole capacity.
            Late: the patience is over.
        """
        me = _Waiting(need, self._estimates.get(key, need.seconds), self._clock(), alone)
        with self._changed:
            self._line.append(me)
            try:
                if not self._changed.wait_for(
                    lambda: self._possible(need) and self._next() is me and self._fits(me), patience
                ):
                    raise Late
            finally:
                self._line.remove(me)
                self._changed.notify_all()
            gpus = tuple(self._free_gpus()[: need.gpus])
            self._gpus.update(gpus)
            self._use(need, +1)
            self._alone = alone
        started = self._clock()
        try:
            yield gpus
        finally:
            seconds = self._clock() - started
            with self._changed:
                known = self._estimates.get(key, seconds)
                self._estimates[key] = (1 - RECENT) * known + RECENT * seconds
                self._gpus.subtract(gpus)
                self._use(need, -1)
                self._alone = False
                self._changed.notify_all()

    def resize(self, capacity: Capacity) -> None:
        """Change what there is; experiments that run keep what they have."""
        with self._changed:
            self.capacity = capacity
            self._changed.notify_all()

    def at_most(self, number: int | None) -> None:
        """Let no more than so many run at once from now on, however many would fit; None: as many as fit."""
        with self._changed:
            self._most = number
            self._changed.notify_all()

    def _possible(self, need: Limits) -> bool:
        """True, or an `AdmissionError`."""
        needed = {"cpus": need.cpus, "memory_mb": need.memory_mb, "gpus": need.gpus}
        there = {**vars(self.capacity), "gpus": len(self.capacity.cards())}
        for name, most in there.items():
            if needed[name] > most:
                more = "have sandbox.gpus name more cards (actors of a node share them out)"
                raise AdmissionError(
                    f"an experiment asks for limits.{name} = {needed[name]:g} and this actor's experiments share "
                    f"{most:g}: lower it (tasks.limits.{name}), or {more if name == 'gpus' else 'use larger nodes'}"
                )
        return True

    def _next(self) -> _Waiting:
        line = sorted(self._line, key=lambda waiting: waiting.urgency, reverse=True)
        if line[0].alone or line[0].need.gpus <= len(self._free_gpus()):
            return line[0]
        return next((waiting for waiting in line if not waiting.need.gpus), line[0])

    def _fits(self, waiting: _Waiting) -> bool:
        need = waiting.need
        return (
            not (self._alone or (waiting.alone and self.running))
            and (self._most is None or self.running < self._most)
            and self._cpus + need.cpus <= self.capacity.cpus
            and self._memory_mb + need.memory_mb <= self.capacity.memory_mb
            and need.gpus <= len(self._free_gpus())
        )

    def _free_gpus(self) -> list[int]:
        """Those that have the fewest experiments first, so that none is shared while another has nothing to do."""
        named = collections.Counter(self.capacity.gpus)
        return sorted((gpu for gpu in named if self._gpus[gpu] < named[gpu]), key=self._gpus.__getitem__)

    def _use(self, need: Limits, sign: int) -> None:
        self._cpus += sign * need.cpus
        self._memory_mb += sign * need.memory_mb
        self.running += sign
