"""The stream between actors and learner: which state is tried next, and which groups are trained next.

One Ray actor holds it. Invariants:
* every admitted group is delivered to the learner exactly once; a group whose actor failed or left is admitted again;
* staleness is bounded by admission: after `step` learner steps no more than (step + 1 + max_staleness) batches of
  groups have started, and a batch waits for every group that could not be trained later within the bound, so a
  slow group is never dropped and never starved;
* batches are formed oldest group first; no group is started that the run would not train;
* the transitions of a group pass through as the bytes that the actor made of them, and an event wakes only whom it
  concerns, so that neither their size nor the number of actors costs time here.
"""

from __future__ import annotations

import asyncio
import collections
import io
import pickle
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from envs import records
from envs.records import State, Transition
from learner.stream.states import Experience, StatePool

MAX_TRIES = 3
ARRAYS = {
    ("numpy", "dtype"), ("numpy", "ndarray"), ("numpy._core.numeric", "_frombuffer"),
    ("numpy._core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "scalar"),
}  # fmt: skip
"""What a pickle of arrays and their elements names."""


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
    unfinished: dict[int, str] = field(default_factory=dict)
    """Groups that were in flight, with the id of their state: they are sampled again."""
    ready: dict[int, bytes] = field(default_factory=dict)
    """Finished groups that were not trained yet, as they came; in a cursor for a checkpoint."""
    experience: Experience = field(default_factory=Experience)


@dataclass(frozen=True)
class Account:
    """Where every group that was started is, and what both sides waited."""

    started: int
    trained: int
    ready: int
    in_flight: int
    again: int
    """Given back by an actor that failed or left, and not taken by another yet."""
    actors_waited: float
    """Seconds that actors stood at admission, in total."""


def unpack(groups: Iterable[bytes]) -> list[list[Transition]]:
    """The groups of a batch.

    Raises:
        StreamError: one holds something else than records.
    """
    return [_Records(io.BytesIO(group)).load() for group in groups]


class _Records(pickle.Unpickler):
    """Builds records and arrays and calls nothing else: groups that wait also come from a checkpoint, and so from
    wherever that was copied from."""

    def find_class(self, module: str, name: str) -> Any:
        of_records = module == records.__name__ and getattr(vars(records).get(name), "__module__", None) == module
        if of_records or (module, name) in ARRAYS:
            return super().find_class(module, name)
        raise StreamError(f"a group of transitions names {module}.{name}, which is no record: it is damaged or forged")


class Stream:
    """Bounded exchange of groups of transitions; its methods are coroutines of one event loop."""

    def __init__(
        self, pool: StatePool, seed: int, steps: int, states: int, actions: int, max_staleness: int, cursor: Cursor
    ):
        self._pool, self._seed, self._actions = pool, seed, actions
        self._total, self._batch, self._max_staleness = steps * states, states, max_staleness
        self._step, self._next = cursor.step, cursor.next_index
        self._again = collections.deque(
            self._ticket(index, pool.by_id(name)) for index, name in sorted(cursor.unfinished.items())
        )
        self._in_flight: dict[str, Ticket] = {}
        self._gone: set[str] = set()
        self._ready = dict(cursor.ready)
        self._closed = False
        self._error: str | None = None
        self._standing: collections.deque[tuple[float, asyncio.Future[None]]] = collections.deque()
        self._waited = 0.0
        self._delivered = asyncio.Event()

    def __repr__(self) -> str:  # Ray's dashboard shows it
        return "stream: groups from actors to the learner"

    def _ticket(self, index: int, state: State) -> Ticket:
        seeds = tuple((self._seed * 1_000_003 + index * 1_009 + k) % 2**31 for k in range(self._actions))
        return Ticket(index, state, seeds, self._step, "")

    async def admit(self, actor_id: str) -> Ticket | None:
        """The next group to sample, once staleness allows it; None when the run needs no more of this actor."""
        while not (self._closed or actor_id in self._gone or self._again or self._may_start()):
            turn = asyncio.get_running_loop().create_future()
            self._standing.append((time.monotonic(), turn))
            await turn
        if self._closed or actor_id in self._gone:
            self._let_in(1)  # whatever this turn was for is another's
            return None
        if self._again:
            ticket = self._again.popleft()
        else:
            ticket = self._ticket(self._next, self._pool.draw(self._next))
            self._next += 1
        ticket = replace(ticket, actor_id=actor_id)
        self._in_flight[ticket.group_id] = ticket
        return ticket

    async def wave(self, actor_id: str, most: int) -> list[Ticket]:
        """As `admit`, with up to `most` groups that may start now; none when the run needs no more."""
        tickets = [await self.admit(actor_id)]
        while len(tickets) < most and tickets[0] and (self._again or self._may_start()):
            tickets.append(await self.admit(actor_id))
        return [ticket for ticket in tickets if ticket]

    def _may_start(self) -> bool:
        return self._next < min(self._total, (self._step + 1 + self._max_staleness) * self._batch)

    def _let_in(self, count: int) -> None:
        """Wake that many of the actors at admission, in the order in which they came."""
        while count and self._standing:
            since, turn = self._standing.popleft()
            self._waited += time.monotonic() - since
            turn.set_result(None)
            count -= 1

    async def put(self, group_id: str, transitions: Sequence[Transition] | bytes) -> None:
        """Deliver a finished group; a group that is not in flight (delivered before) is ignored."""
        if ticket := self._in_flight.pop(group_id, None):
            packed = transitions if isinstance(transitions, bytes) else pickle.dumps(transitions)
            self._ready[ticket.index] = packed
            self._delivered.set()

    async def exchange(self, actor_id: str, group_id: str, transitions: bytes) -> Ticket | None:
        """`put` and `admit` in one call, which halves the messages."""
        await self.put(group_id, transitions)
        return await self.admit(actor_id)

    async def fail(self, group_id: str, reason: str) -> None:
        """Give a group back: another actor samples it, until it has failed `MAX_TRIES` times."""
        if ticket := self._in_flight.pop(group_id, None):
            if ticket.tries >= MAX_TRIES:
                self._error = f"{group_id} (task {ticket.state.task_id}) failed {MAX_TRIES} times, last: {reason}"
            self._return(replace(ticket, tries=ticket.tries + 1))

    async def leave(self, actor_id: str) -> int:
        """Give back all groups of an actor that has ended, which is no fault of theirs; returns how many.

        It is admitted no more, should it live yet.
        """
        self._gone.add(actor_id)
        lost = [ticket for ticket in self._in_flight.values() if ticket.actor_id == actor_id]
        for ticket in lost:
            del self._in_flight[ticket.group_id]
            self._return(ticket)
        return len(lost)

    def _return(self, ticket: Ticket) -> None:
        self._again.append(ticket)
        self._delivered.set()
        self._let_in(1)

    async def batch(self) -> list[bytes]:
        """The oldest finished groups, as many as a learner step trains, once none that is due is still running.

        `unpack` makes transitions of them.

        Raises:
            StreamError: a group failed on every try.
        """
        while not (self._error or self._complete()):
            self._delivered.clear()
            await self._delivered.wait()
        if self._error:
            raise StreamError(self._error)
        return [self._ready.pop(index) for index in sorted(self._ready)[: self._batch]]

    def _complete(self) -> bool:
        if len(self._ready) < self._batch:
            return False
        due = self._step - self._max_staleness
        return not any(ticket.step <= due for tickets in (self._in_flight.values(), self._again) for ticket in tickets)

    async def advance(
        self, spreads: Mapping[str, float] | None = None, found: Sequence[State] = (), saved: bool = False
    ) -> Cursor:
        """All actors serve the weights of one more learner step; returns where a restart would go on.

        spreads, found: what the step saw, for the state pool (`StatePool.learn`); saved: the cursor is for a
        checkpoint, and so carries the groups that are ready, which may be many.
        """
        self._pool.learn(spreads or {}, found)
        self._step += 1
        self._let_in(self._batch)
        unfinished = {t.index: t.state.id for t in [*self._in_flight.values(), *self._again]}
        ready = dict(self._ready) if saved else {}
        return Cursor(self._step, self._next, unfinished, ready, self._pool.experience())

    async def account(self) -> Account:
        trained = self._next - len(self._ready) - len(self._in_flight) - len(self._again)
        now = time.monotonic()
        waited = self._waited + sum(now - since for since, _ in self._standing)
        return Account(self._next, trained, len(self._ready), len(self._in_flight), len(self._again), waited)

    async def close(self) -> None:
        """Admit nothing more; actors that ask are told to stop."""
        self._closed = True
        self._let_in(len(self._standing))
