"""The stream between actors and learner: which state is tried next, and which groups are trained next.

One Ray actor holds it. With B groups in a learner step, M = `max_staleness` and s the steps done, two rules hold:
* admission: at most (M + 1) · B groups are started and not trained;
* batches: the B oldest finished groups are trained, as soon as what then remains can still be trained in time: the k-th
  of it (k = 0, 1, …; oldest first), which is trained at step s + 1 + k // B at the latest, was admitted at step
  s + 1 + k // B - M or later.

Invariants:
* every admitted group is delivered to the learner exactly once, by the actor that holds it; a group whose actor failed
  or left is admitted again;
* a group admitted at step a is trained at one of the steps a … a + M, so no token is more than M weight versions old,
  and no group is starved or dropped because it is slow. Before step s the k-th oldest is not due before s + k // B:
  the second rule hands this on from step to step, and a group admitted at s comes last, with k < (M + 1) · B;
* nobody waits for ever: when all that started has finished, its B oldest are taken, the k-th that remains was the
  (k + B)-th before, and so the second rule holds; no actor stands at admission while a group may start;
* no group is started that the run would not train;
* a group that teaches nothing new (`StatePool.teaches`) takes no place in a batch, as long as no more than `refill` of
  a learner step do: another is started for it, and it is delivered beside the next batch, of which there are B in any
  case (and is trained there as far as it has a gradient: what is repeated is as true as before);
* the transitions of a group pass through as the bytes that the actor made of them, and an event concerns only those
  whom it lets in, so that neither their size nor the number of actors costs time here.
"""

from __future__ import annotations

import asyncio
import collections
import pickle
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from envs.records import Reached, State, Told, Transition
from learner.stream.packed import StreamError
from learner.stream.states import Experience, StatePool

MAX_TRIES = 3


@dataclass(frozen=True)
class Ticket:
    """Leave to sample one group."""

    index: int
    """Number of the group in the run; with the run's seed it fixes the state and the sampling seeds."""
    state: State
    seeds: tuple[int, ...]
    step: int
    """Learner steps done when it was admitted, last if more than once: its tokens are at least that new."""
    actor_id: str
    tries: int = 1

    @property
    def group_id(self) -> str:
        return f"group-{self.index:06d}"

    @property
    def age(self) -> tuple[int, int]:
        """What the oldest has least of."""
        return self.step, self.index


@dataclass(frozen=True)
class Untrained:
    """A group that was started and not trained."""

    state: str
    """Id of the state."""
    step: int
    """As the ticket's."""
    packed: bytes | None = None
    """Its transitions as they came; None: it was in flight, and is sampled again."""
    replaced: bool = False
    """Another was started for it."""


@dataclass(frozen=True)
class Cursor:
    """What a restarted learner needs to go on: nothing finished is repeated, nothing started is forgotten."""

    step: int = 0
    next_index: int = 0
    trained: int = 0
    """Groups."""
    untrained: dict[int, Untrained] = field(default_factory=dict)
    """By their number; in a cursor for a checkpoint, as what follows."""
    experience: Experience = field(default_factory=Experience)
    gone: list[State] = field(default_factory=list)
    """States of groups that are not trained which have left the pool."""

    @property
    def states(self) -> list[State]:
        """Those that a restart needs beside the expert's."""
        return [*self.experience.added, *self.gone]


@dataclass(frozen=True)
class Account:
    """Where every group that was started is, and what both sides waited."""

    started: int
    trained: int
    """Delivered to the learner, counted as they are."""
    ready: int
    in_flight: int
    again: int
    """Given back by an actor that failed or left, and not taken by another yet."""
    actors_waited: float
    """Seconds that actors stood at admission, in total."""
    repeated: int = 0
    """Groups of the last learner step that tried nothing new."""


def states_of(cursor: Cursor, pool: StatePool) -> dict[str, State]:
    """The states of the groups that are not trained, by id.

    Raises:
        StreamError: one is nowhere.
    """
    gone = {state.id: state for state in cursor.gone}
    states = {of.state: pool.by_id(of.state) or gone.get(of.state) for of in cursor.untrained.values()}
    for name, state in states.items():
        if state is None:
            raise StreamError(
                f"the checkpoint has a group of state {name}, which neither it nor the run's states.json has: they are "
                "not of one run, so that it cannot be resumed"
            )
    return {name: state for name, state in states.items() if state}


@dataclass(frozen=True)
class _Standing:
    """An actor at admission."""

    actor_id: str
    since: float
    turn: asyncio.Future[Ticket | None]


class Stream:
    """Bounded exchange of groups of transitions; its methods are coroutines of one event loop."""

    def __init__(
        self,
        pool: StatePool,
        seed: int,
        steps: int,
        states: int,
        actions: int,
        max_staleness: int,
        cursor: Cursor,
        refill: int = 0,
        discount: float = 0.0,
    ):
        """refill: groups of a learner step that may be replaced by others, as they teach nothing new; discount: of what
        is earned from where an action led on."""
        self._pool, self._seed, self._actions = pool, seed, actions
        self._steps, self._batch, self._max_staleness = steps, states, max_staleness
        self._step, self._next, self._trained = cursor.step, cursor.next_index, cursor.trained
        self._training = 0
        self._in_flight: dict[str, Ticket] = {}
        self._ready: dict[int, tuple[Ticket, bytes]] = {}
        self._replaced: dict[int, tuple[Ticket, bytes]] = {}
        self._refill, self._refilled, self._discount = refill, 0, discount
        self._repeated = 0
        self._again: collections.deque[Ticket] = collections.deque()
        self._take_up(cursor)
        self._gone: set[str] = set()
        self._closed = False
        self._error: str | None = None
        self._standing: collections.deque[_Standing] = collections.deque()
        self._waited = 0.0
        self._delivered = asyncio.Event()

    def __repr__(self) -> str:  # Ray's dashboard shows it
        return "stream: groups from actors to the learner"

    def _take_up(self, cursor: Cursor) -> None:
        """Go on from a cursor; what a smaller bound or batch than before makes too old is sampled again."""
        untrained, states = cursor.untrained, states_of(cursor, self._pool)
        tickets = [self._ticket(number, states[of.state], of.step) for number, of in untrained.items()]
        for ticket in sorted(tickets, key=lambda ticket: ticket.age):
            of = untrained[ticket.index]
            held = self._replaced if of.replaced else self._ready
            older = 0 if of.replaced else len(self._ready)
            if of.packed is not None and self._in_time(older, ticket.step, self._step):
                held[ticket.index] = ticket, of.packed
            else:
                self._again.append(ticket)

    def _ticket(self, index: int, state: State, step: int) -> Ticket:
        seeds = tuple((self._seed * 1_000_003 + index * 1_009 + k) % 2**31 for k in range(self._actions))
        return Ticket(index, state, seeds, step, "")

    async def admit(self, actor_id: str) -> Ticket | None:
        """The next group to sample, once staleness allows it; None when the run needs no more of this actor."""
        if self._closed or actor_id in self._gone:
            return None
        if self._may_start():
            return self._start(actor_id)
        self._standing.append(_Standing(actor_id, time.monotonic(), asyncio.get_running_loop().create_future()))
        return await self._standing[-1].turn

    async def wave(self, actor_id: str, most: int) -> list[Ticket]:
        """As `admit`, with up to `most` groups that may start now; none when the run needs no more."""
        tickets = [await self.admit(actor_id)]
        while len(tickets) < most and tickets[0] and self._may_start():
            tickets.append(await self.admit(actor_id))
        return [ticket for ticket in tickets if ticket]

    def _may_start(self) -> bool:
        sampled = len(self._in_flight) + len(self._ready) + self._training
        return sampled < min(self._max_staleness + 1, self._steps - self._step) * self._batch

    def _start(self, actor_id: str) -> Ticket:
        """Those that were given back go first."""
        if self._again:
            ticket = self._again.popleft()
        else:
            ticket = self._ticket(self._next, self._pool.draw(self._next), self._step)
            self._next += 1
        ticket = self._in_flight[ticket.group_id] = replace(ticket, actor_id=actor_id, step=self._step)
        return ticket

    def _let_in(self) -> None:
        """Start what may start, for the actors at admission in the order in which they came."""
        while self._standing and self._may_start():
            first = self._standing.popleft()
            if not first.turn.done():  # it is where its caller was ended
                self._answer(first, self._start(first.actor_id))

    def _answer(self, standing: _Standing, ticket: Ticket | None) -> None:
        self._waited += time.monotonic() - standing.since
        if not standing.turn.done():
            standing.turn.set_result(ticket)

    def _send_away(self, those: Iterable[_Standing]) -> None:
        for standing in list(those):
            self._standing.remove(standing)
            self._answer(standing, None)

    async def put(
        self,
        actor_id: str,
        group_id: str,
        transitions: Sequence[Transition] | bytes,
        told: Sequence[Told] | None = None,
    ) -> None:
        """Deliver a finished group; ignored unless the actor holds it (it was called lost, and another has it).

        told: by its members that are not masked; None: it takes a place in a batch whatever it tells.
        """
        if ticket := self._release(actor_id, group_id):
            packed = transitions if isinstance(transitions, bytes) else pickle.dumps(transitions)
            spare = told is not None and self._refilled < self._refill
            replaced = spare and not self._pool.teaches(ticket.state, told, self._discount)
            self._refilled += replaced
            (self._replaced if replaced else self._ready)[ticket.index] = ticket, packed
            self._delivered.set()
            self._let_in()

    async def exchange(
        self, actor_id: str, group_id: str, transitions: bytes, told: Sequence[Told] | None = None
    ) -> Ticket | None:
        """`put` and `admit` in one call, which halves the messages."""
        await self.put(actor_id, group_id, transitions, told)
        return await self.admit(actor_id)

    async def fail(self, actor_id: str, group_id: str, reason: str) -> None:
        """Give a group back: another actor samples it, until it has failed `MAX_TRIES` times."""
        if ticket := self._release(actor_id, group_id):
            if ticket.tries >= MAX_TRIES:
                self._error = f"{group_id} (task {ticket.state.task_id}) failed {MAX_TRIES} times, last: {reason}"
            self._return([replace(ticket, tries=ticket.tries + 1)])

    async def leave(self, actor_id: str) -> int:
        """Give back all groups of an actor that has ended, which is no fault of theirs; returns how many.

        It is admitted no more, should it live yet.
        """
        self._gone.add(actor_id)
        self._send_away(standing for standing in self._standing if standing.actor_id == actor_id)
        lost = [ticket for ticket in self._in_flight.values() if ticket.actor_id == actor_id]
        for ticket in lost:
            del self._in_flight[ticket.group_id]
        self._return(lost)
        return len(lost)

    def _release(self, actor_id: str, group_id: str) -> Ticket | None:
        """The ticket of a group in flight that this actor holds, and holds no more."""
        ticket = self._in_flight.get(group_id)
        return self._in_flight.pop(group_id) if ticket and ticket.actor_id == actor_id else None

    def _return(self, tickets: Sequence[Ticket]) -> None:
        self._again.extend(tickets)
        self._delivered.set()
        self._let_in()

    async def batch(self) -> list[bytes]:
        """The oldest finished groups, as many as a learner step trains, once the rest can be trained in time; and those
        that were replaced since.

        `unpack` makes transitions of them.

        Raises:
            StreamError: a group failed on every try.
        """
        while not (self._error or (oldest := self._complete())):
            self._delivered.clear()
            await self._delivered.wait()
        if self._error:
            raise StreamError(self._error)
        self._training = len(oldest)
        replaced = [packed for _, packed in self._replaced.values()]
        self._replaced.clear()
        self._trained += len(oldest) + len(replaced)
        return [*(self._ready.pop(ticket.index)[1] for ticket in oldest), *replaced]

    def _complete(self) -> list[Ticket]:
        """What the next step trains; nothing while it has to wait."""
        if len(self._ready) < self._batch:
            return []
        ready = sorted((ticket for ticket, _ in self._ready.values()), key=lambda ticket: ticket.age)
        remaining = sorted(ticket.step for ticket in [*ready[self._batch :], *self._in_flight.values()])
        if all(self._in_time(k, step, self._step + 1) for k, step in enumerate(remaining)):
            return ready[: self._batch]
        return []

    def _in_time(self, k: int, admitted: int, step: int) -> bool:
        """Whether the k-th oldest group before a step can be trained within the bound."""
        return step + k // self._batch <= admitted + self._max_staleness

    async def values(self, reached: Sequence[tuple[str, Reached | None]]) -> list[float]:
        """As of the state pool."""
        return self._pool.values(reached)

    async def advance(
        self,
        spreads: Mapping[str, float] | None = None,
        found: Sequence[State] = (),
        earned: Mapping[str, float] | None = None,
        tried: Iterable[tuple[str, frozenset[str]]] = (),
        saved: bool = False,
    ) -> Cursor:
        """All actors serve the weights of one more learner step; returns where a restart would go on.

        spreads, found, earned, tried: what the step saw, for the state pool (`StatePool.learn`); saved: the cursor is
        for a checkpoint, and so carries the groups that are not trained and what the pool learned, which may be much.
        """
        self._repeated = self._pool.learn(spreads or {}, found, earned, tried)
        self._step += 1
        self._training = self._refilled = 0
        cursor = await self.cursor() if saved else Cursor(self._step, self._next, self._trained)
        self._let_in()
        return cursor

    async def cursor(self) -> Cursor:
        """Where a restart would go on, for a checkpoint; between two learner steps."""
        learned, gone = self._pool.experience(), self._gone_states()
        return Cursor(self._step, self._next, self._trained, self._untrained(), learned, gone)

    def _gone_states(self) -> list[State]:
        held = [*self._in_flight.values(), *self._again]
        held += [ticket for ticket, _ in (*self._ready.values(), *self._replaced.values())]
        states = {ticket.state.id: ticket.state for ticket in held}
        return [state for name, state in states.items() if self._pool.by_id(name) is None]

    def _untrained(self) -> dict[int, Untrained]:
        tickets = [*self._in_flight.values(), *self._again]
        unfinished = {ticket.index: Untrained(ticket.state.id, ticket.step) for ticket in tickets}
        for replaced, finished in ((False, self._ready), (True, self._replaced)):
            for index, (of, packed) in finished.items():
                unfinished[index] = Untrained(of.state.id, of.step, packed, replaced)
        return unfinished

    async def account(self) -> Account:
        now = time.monotonic()
        waited = self._waited + sum(now - standing.since for standing in self._standing)
        parts = len(self._ready) + len(self._replaced), len(self._in_flight), len(self._again)
        return Account(self._next, self._trained, *parts, waited, self._repeated)

    async def close(self) -> None:
        """Admit nothing more; actors that ask are told to stop."""
        self._closed = True
        self._send_away(self._standing)
