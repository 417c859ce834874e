"""The stream under random schedules: actors that come, go, fail, hang and deliver too late, and a learner that is
resumed in the middle, in virtual time.
"""

from __future__ import annotations

import asyncio
import collections
import pickle
import random
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from envs.records import State, Told
from learner.stream.states import StatePool
from learner.stream.stream import MAX_TRIES, Cursor, Stream, Ticket
from tests.virtual_time import VirtualTime

GIVEN = [State(f"s{i}", "t", f"s{i}") for i in range(5)]
HEARTBEAT = 30.0
"""Seconds after which an actor that hangs is given up."""


ALIKE = [Told(0.5, None, "edit/a"), Told(0.5, None, "edit/b")]


@dataclass(frozen=True)
class Plan:
    """What a schedule is drawn from."""

    seed: int
    staleness: int = 1
    states: int = 2
    steps: int = 6
    actors: int = 3
    slots: int = 2
    trouble: float = 0.0
    """Probability that a group fails, or that its actor dies, hangs or leaves."""
    train: float = 1.0
    """Seconds of a learner step; a group takes one at the median."""
    alike: float = 0.0
    """Probability that the rewards of a group do not differ."""
    refill: int = 0
    found: float = 0.0
    """Probability that a group leads to a state that joins the pool, of which it keeps `most`."""
    most: int = 1
    sampling: str = "balanced"


class World:
    """Actors and a learner around one stream."""

    def __init__(self, plan: Plan, cursor: Cursor, trained: dict[int, int], drawn: dict[int, State] | None = None):
        """trained: the learner step of each group that was trained so far, by its number; drawn: its state."""
        self.plan, self.trained, self.cursor, self.drawn = plan, trained, cursor, {} if drawn is None else drawn
        self.rng = random.Random(plan.seed)
        self.pool = StatePool(GIVEN, 0, plan.sampling, cursor.experience, most=plan.most)
        self.stream = Stream(self.pool, 0, plan.steps, plan.states, 1, plan.staleness, cursor, plan.refill)
        self.version = cursor.step
        self.least = min(0, self.room(sum(not of.replaced for of in cursor.untrained.values())))
        """Below 0 where smaller batches or a smaller bound than before leave groups over."""
        self.beside = 0
        """Groups that the last batch had beside those of the learner step."""
        self.kept = sum(of.replaced for of in cursor.untrained.values())
        """Of those to come, from a run that may have replaced more."""
        self.tasks: dict[str, list[asyncio.Task]] = {}
        self.others: set[asyncio.Task] = set()
        self.standing: collections.Counter[str] = collections.Counter()
        self.gone: set[str] = set()
        self.failures: collections.Counter[int] = collections.Counter()

    async def run(self, until: int) -> Cursor:
        """Train until that many steps are done in all; returns the cursor after the last of them."""
        for _ in range(self.plan.actors):
            self.come()
        while self.cursor.step < until:
            groups = [pickle.loads(group) for group in await self.stream.batch()]
            self.beside = len(groups) - self.plan.states
            assert 0 <= self.beside <= max(self.kept, self.plan.refill) + self.plan.refill, "of a step, and of the last"
            self.kept = 0
            for number, version in groups:
                assert number not in self.trained, "trained twice"
                assert 0 <= self.cursor.step - version <= self.plan.staleness
                self.trained[number] = self.cursor.step
            await self.check()
            await asyncio.sleep(self.plan.train * self.rng.uniform(0.5, 1.5))
            self.version += 1  # all actors serve it before the stream knows
            await asyncio.sleep(0.01)
            self.cursor, self.beside = await self.stream.advance(*self.seen(groups), saved=True), 0
            self.check_pool()
            await self.check()
        await self.stream.close()
        alive = [task for name, tasks in self.tasks.items() if name not in self.gone for task in tasks]
        _, waiting = await asyncio.wait(alive, timeout=1e6) if alive else ([], [])
        assert not waiting, "an actor was not told that the run is over"
        for task in [*self.others, *(task for tasks in self.tasks.values() for task in tasks)]:
            task.cancel()
        return self.cursor

    def seen(self, groups: list[tuple[int, int]]) -> tuple[dict[str, float], list[State]]:
        """What the pool learns of a step."""
        spreads = {self.drawn[number].id: self.rng.choice([0.0, 0.3, 0.6]) for number, _ in groups}
        found = [number for number, _ in groups if self.rng.random() < self.plan.found]
        return spreads, [State(f"n{number}", "t", f"n{number}") for number in found]

    def check_pool(self) -> None:
        """What a restart needs is in the cursor, and no more; the pool keeps to its bound and to what it was given."""
        added, gone = ([state.id for state in of] for of in (self.cursor.experience.added, self.cursor.gone))
        assert len(added) <= self.plan.most and [state.id for state in self.pool.states] == [*map(id_of, GIVEN), *added]
        assert self.cursor.experience.spread.keys() <= {*map(id_of, GIVEN), *added}
        needed = {of.state for of in self.cursor.untrained.values()}
        assert set(gone) == needed - set(added) - set(map(id_of, GIVEN)) and len(set(gone)) == len(gone)
        for number, of in self.cursor.untrained.items():
            assert of.state == self.drawn[number].id

    async def check(self) -> None:
        """Every group is somewhere, and nobody stands at admission who may start one."""
        for _ in range(5):
            await asyncio.sleep(0)
        account = await self.stream.account()
        assert account.started == account.trained + account.ready + account.in_flight + account.again
        assert account.trained == len(self.trained)
        held = account.in_flight + len(self.stream._ready) + len(self.trained) - self.cursor.trained - self.beside
        room = self.room(held)
        assert room >= self.least
        assert not (room > 0 and sum(self.standing[name] for name in self.tasks if name not in self.gone))

    def room(self, held: int) -> int:
        """How many groups more may be started beside those that are held."""
        return min(self.plan.staleness + 1, self.plan.steps - self.cursor.step) * self.plan.states - held

    def come(self) -> None:
        name = f"actor-{len(self.tasks)}"
        self.tasks[name] = [asyncio.create_task(self.slot(name)) for _ in range(self.plan.slots)]

    def later(self, seconds: float, name: str) -> None:
        """Somebody sees by then that the actor has ended."""

        async def give_up() -> None:
            await asyncio.sleep(seconds)
            await self.leave(name)

        self.others.add(asyncio.create_task(give_up()))

    async def leave(self, name: str) -> None:
        """Another one comes in its place, at once or after a while."""
        if name not in self.gone:
            self.gone.add(name)
            await self.stream.leave(name)
            asyncio.get_running_loop().call_later(self.rng.choice([0.0, 20.0]), self.come)
            await self.check()

    async def slot(self, name: str) -> None:
        """Samples one group after another."""
        ticket = await self.admitted(name, self.stream.admit(name))
        while ticket:
            assert ticket.actor_id == name and self.version >= ticket.step
            assert self.drawn.setdefault(ticket.index, ticket.state) == ticket.state, "its state stays the same"
            made = pickle.dumps((ticket.index, self.version))
            await asyncio.sleep(min(self.rng.lognormvariate(0, 1.2), 200.0))
            what = self.rng.choice(["fails", "dies", "hangs", "goes"]) if self.rng.random() < self.plan.trouble else ""
            if what == "fails" and self.failures[ticket.index] < MAX_TRIES - 1:
                self.failures[ticket.index] += 1
                await self.stream.fail(name, ticket.group_id, "a defect")
                await self.check()
                ticket = await self.admitted(name, self.stream.admit(name))
                continue
            if what == "dies":
                self.later(self.rng.uniform(0, 5), name)
                for task in self.tasks[name]:
                    task.cancel()
            if what == "goes":
                await self.leave(name)
            if what == "hangs":
                self.later(HEARTBEAT, name)
                await asyncio.sleep(self.rng.uniform(0, 3 * HEARTBEAT))  # and delivers too late, or just in time
            told = None if self.rng.random() >= self.plan.alike else ALIKE
            ticket = await self.admitted(name, self.stream.exchange(name, ticket.group_id, made, told))

    async def admitted(self, name: str, asked) -> Ticket | None:
        self.standing[name] += 1
        try:
            return await asked
        finally:
            self.standing[name] -= 1


def id_of(state: State) -> str:
    return state.id


def run(plan: Plan, resumed: tuple[int, Plan] | None = None) -> dict[int, int]:
    """The learner step at which each group was trained; resumed: after which step, and how the run goes on."""

    async def whole() -> dict[int, int]:
        trained: dict[int, int] = {}
        drawn: dict[int, State] = {}
        stop, after = resumed or (plan.steps, plan)
        cursor = await World(plan, Cursor(), trained, drawn).run(stop)
        if resumed:
            cursor = msgspec.msgpack.decode(msgspec.msgpack.encode(cursor), type=Cursor)
            kept = {number: drawn[number] for number in cursor.untrained}
            await World(after, cursor, trained, kept).run(after.steps)
        return trained

    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(whole())


plans = st.builds(
    Plan,
    seed=st.integers(0, 2**32),
    staleness=st.integers(0, 8),
    states=st.integers(1, 5),
    steps=st.integers(1, 14),
    actors=st.integers(1, 5),
    slots=st.integers(1, 6),
    trouble=st.sampled_from([0.0, 0.05, 0.3]),
    train=st.sampled_from([0.05, 1.0, 10.0]),
    alike=st.sampled_from([0.0, 0.4, 1.0]),
    refill=st.integers(0, 4),
    found=st.sampled_from([0.0, 0.5, 1.0]),
    most=st.integers(1, 4),
    sampling=st.sampled_from(["balanced", "uniform", "progress"]),
)


@settings(max_examples=150, deadline=None)
@given(plans)
@example(Plan(1, staleness=2, steps=14, actors=5, slots=6, train=0.05))
@example(Plan(4, staleness=2, steps=14, actors=5, slots=6, trouble=0.3))
def test_every_group_is_trained_once_within_the_bound_and_nobody_waits_for_ever(plan):
    trained = run(plan)
    assert sorted(trained) == list(range(len(trained))), "those that failed or were slow among them"
    assert len(trained) - plan.steps * plan.states in range((plan.refill if plan.alike else 0) * plan.steps + 1)


@settings(max_examples=100, deadline=None)
@given(plans, st.data())
def test_so_it_is_when_the_run_is_resumed(plan, data):
    after = data.draw(st.integers(1, plan.steps))
    trained = run(plan, (after, replace(plan, seed=plan.seed + 1)))
    assert sorted(trained) == list(range(len(trained))) and len(trained) >= plan.steps * plan.states


@settings(max_examples=100, deadline=None)
@given(plans, st.data())
def test_a_run_that_is_resumed_as_it_was_samples_nothing_again_that_was_finished(plan, data):
    after = data.draw(st.integers(1, plan.steps))

    async def taken_up() -> tuple[list[bool], tuple[int, int]]:
        cursor = await World(plan, Cursor(), {}).run(after)
        account = await World(plan, cursor, {}).stream.account()
        return [of.packed is not None for of in cursor.untrained.values()], (account.ready, account.again)

    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        finished, there = runner.run(taken_up())
    assert there == (finished.count(True), finished.count(False))


@settings(max_examples=100, deadline=None)
@given(plans, plans, st.integers(1, 14))
@example(
    Plan(0, staleness=1, states=3, steps=2, actors=1, slots=1, train=10.0), Plan(0, staleness=3, states=1, steps=1), 1
)
def test_a_run_may_be_resumed_with_another_bound_and_other_batches(plan, other, after):
    """Some groups may then be left over; `World.run` holds what was trained against the new bound."""
    after = min(after, plan.steps)
    other = replace(other, steps=plan.steps + other.steps)
    trained = run(plan, (after, other))
    more = len(trained) - after * plan.states - (other.steps - after) * other.states
    assert more == 0 or (more > 0 and plan.refill + other.refill)


def trained_on(seconds: tuple[float, float], rewards: tuple[float, float]) -> np.ndarray:
    """Probabilities of two arms, of those seconds and rewards, after REINFORCE without a baseline or any weight for
    durations: eight slots each draw an arm from the policy of the time and deliver it when its seconds have passed."""
    rng, logits, steps, states = np.random.default_rng(0), np.zeros(2), 200, 8

    def policy() -> np.ndarray:
        return np.exp(logits) / np.exp(logits).sum()

    async def whole() -> None:
        stream = Stream(StatePool([State("s", "t", "s")], 0), 0, steps, states, 1, 3, Cursor())

        async def slot() -> None:
            ticket = await stream.admit("actor")
            while ticket:
                arm = int(rng.random() < policy()[1])
                await asyncio.sleep(seconds[arm] * rng.uniform(0.9, 1.1))
                ticket = await stream.exchange("actor", ticket.group_id, pickle.dumps(arm))

        slots = [asyncio.create_task(slot()) for _ in range(8)]
        for _ in range(steps):
            arms, probabilities = [pickle.loads(group) for group in await stream.batch()], policy()
            for arm in arms:
                logits[:] += 0.3 / states * rewards[arm] * (np.eye(2)[arm] - probabilities)
            await stream.advance()
        await stream.close()
        await asyncio.gather(*slots)

    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        runner.run(whole())
    return policy()


@pytest.mark.parametrize("rewards", [(0.6, 1.0), (1.0, 0.6)])
def test_as_nothing_is_dropped_the_better_arm_is_learned_whether_it_is_fast_or_slow(rewards):
    """So a gradient needs no weight for durations (arXiv 2509.01684 has streams in which fast actions come more
    often): weighted by them, the slow arm would win in both cases."""
    assert trained_on((1.0, 8.0), rewards)[np.argmax(rewards)] > 0.9
