"""The stream between actors and learner: which state is tried next, and which groups are trained next.

One Ray actor holds it. Invariants:
* every admitted group is delivered to the learner exactly once; a group whose actor failed is admitted again;
* staleness is bounded by admission: after `step` learner steps no more than (step + 1 + max_staleness) batches of
  groups have started, and a batch waits for every group that could not be trained later within the bound, so a
  slow group is never dropped and never starved;
* batches are formed oldest group first; no group is started that the run would not train.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from envs.records import State, Transition
from learner.states import StatePool

MAX_TRIES = 3


class StreamError(RuntimeError):
    """A group that no actor could finish; the message carries the last actor's reason."""


@dataclass(frozen=True)
class Ticket:
    """Leave to sample one group."""

    index: int
    """Number of the group in the run; with the run's seed it fixes the state and the sampling seeds."""
    state: State
    seeds: tuple[int, ...]
    step: int
    """Learner steps done when it was admitted: its tokens are at least that new."""
    actor_id: str
    tries: int = 1

    @property
    def group_id(self) -> str:
        return f"group-{self.index:06d}"


@dataclass(frozen=True)
class Cursor:
    """What a restarted learner needs to go on: nothing finished is repeated, nothing started is forgotten."""

    step: int = 0
    next_index: int = 0
    unfinished: tuple[int, ...] = ()
    """Groups that were in flight: they are sampled again."""
    ready: dict[int, list[Transition]] = field(default_factory=dict)
    """Finished groups that were not trained yet."""


class Stream:
    """Bounded exchange of groups of transitions; its methods are coroutines of one event loop."""

    def __init__(
        self, pool: StatePool, seed: int, steps: int, states: int, actions: int, max_staleness: int, cursor: Cursor
    ):
        self._pool, self._seed, self._actions = pool, seed, actions
        self._total, self._batch, self._max_staleness = steps * states, states, max_staleness
        self._step, self._next = cursor.step, cursor.next_index
        self._again = [self._ticket(index, "", 1) for index in cursor.unfinished]
        self._in_flight: dict[str, Ticket] = {}
        self._ready = dict(cursor.ready)
        self._closed = False
        self._error: str | None = None
        self._changed = asyncio.Condition()

    def _ticket(self, index: int, actor_id: str, tries: int) -> Ticket:
        seeds = tuple((self._seed * 1_000_003 + index * 1_009 + k) % 2**31 for k in range(self._actions))
        return Ticket(index, self._pool.draw(index), seeds, self._step, actor_id, tries)

    async def admit(self, actor_id: str) -> Ticket | None:
        """The next group to sample, once staleness allows it; None when the run needs no more."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._again or self._may_start())
            if self._closed:
                return None
            if self._again:
                ticket = replace(self._again.pop(0), actor_id=actor_id)
            else:
                ticket = self._ticket(self._next, actor_id, 1)
                self._next += 1
            self._in_flight[ticket.group_id] = ticket
            return ticket

    def _may_start(self) -> bool:
        return self._next < min(self._total, (self._step + 1 + self._max_staleness) * self._batch)

    async def put(self, group_id: str, transitions: list[Transition]) -> None:
        """Deliver a finished group; a group that is not in flight (delivered before) is ignored."""
        async with self._changed:
            if ticket := self._in_flight.pop(group_id, None):
                self._ready[ticket.index] = transitions
                self._changed.notify_all()

    async def fail(self, group_id: str, reason: str) -> None:
        """Give a group back: another actor samples it, until it has failed `MAX_TRIES` times."""
        async with self._changed:
            if ticket := self._in_flight.pop(group_id, None):
                if ticket.tries >= MAX_TRIES:
                    self._error = f"{group_id} (task {ticket.state.task_id}) failed {MAX_TRIES} times, last: {reason}"
                self._again.append(replace(ticket, tries=ticket.tries + 1))
                self._changed.notify_all()

    async def batch(self) -> list[list[Transition]]:
        """The oldest finished groups, as many as a learner step trains, once none that is due is still running.

        Raises:
            StreamError: a group failed on every try.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._error or self._complete())
            if self._error:
                raise StreamError(self._error)
            return [self._ready.pop(index) for index in sorted(self._ready)[: self._batch]]

    def _complete(self) -> bool:
        due = self._step - self._max_staleness
        running = [*self._in_flight.values(), *self._again]
        return len(self._ready) >= self._batch and not any(ticket.step <= due for ticket in running)

    async def advance(self) -> None:
        """All actors serve the weights of one more learner step."""
        async with self._changed:
            self._step += 1
            self._changed.notify_all()

    async def cursor(self) -> Cursor:
        unfinished = sorted(t.index for t in [*self._in_flight.values(), *self._again])
        return Cursor(self._step, self._next, tuple(unfinished), dict(self._ready))

    async def depth(self) -> dict[str, int]:
        """Groups that are finished and untrained, and groups that are in flight."""
        return {"ready": len(self._ready), "in_flight": len(self._in_flight)}

    async def close(self) -> None:
        """Admit nothing more; actors that ask are told to stop."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()
