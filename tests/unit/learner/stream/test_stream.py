"""The stream's promises: exactly once, bounded staleness, oldest first, nothing dropped, resumable."""

import asyncio
import pickle
import time
from dataclasses import replace

import pytest

from envs.records import Direction, Origin, Outcome, Reached, State, Told
from learner.stream.packed import StreamError, unpack
from learner.stream.states import Experience, StatePool
from learner.stream.stream import MAX_TRIES, Cursor, Stream
from learner.stream.values import Known


def pool() -> StatePool:
    return StatePool([State(f"{t}{i}", t, snapshot=f"{t}{i}") for t in "ab" for i in range(3)], seed=1)


ALIKE = [Told(0.5, None, "edit/a"), Told(0.5, None, "edit/b")]


def stream(steps=10, states=2, max_staleness=1, cursor=None, refill=0, discount=0.0) -> Stream:
    return Stream(pool(), 7, steps, states, 4, max_staleness, cursor or Cursor(), refill, discount)


async def admitted(s: Stream, actor: str = "actor") -> list:
    """Every ticket that the stream gives out now without waiting."""
    tickets = []
    while s._may_start():
        tickets.append(await asyncio.wait_for(s.admit(actor), 1))
    return tickets


def run(coroutine):
    return asyncio.run(coroutine)


def test_admission_bounds_staleness_and_total():
    async def scenario():
        s = stream(steps=3)
        first = await admitted(s)
        assert [t.index for t in first] == [0, 1, 2, 3]  # (0 + 1 + 1) batches of 2
        assert len({seed for ticket in first for seed in ticket.seeds}) == 4 * 4, "no response is sampled twice"
        for ticket in first:
            await s.put("actor", ticket.group_id, [ticket.index])
        assert unpack(await s.batch()) == [[0], [1]]
        await s.advance()
        assert [t.index for t in await admitted(s)] == [4, 5]
        await s.batch()
        await s.advance()
        assert await admitted(s) == []  # three steps of two groups are all there is

    run(scenario())


def test_a_wave_is_of_one_actor_and_takes_what_may_start_now():
    async def scenario():
        s = stream(states=3, max_staleness=0)
        first, second = await s.wave("first", 2), await s.wave("second", 5)
        assert [(t.index, t.actor_id) for t in (*first, *second)] == [(0, "first"), (1, "first"), (2, "second")]
        standing = asyncio.create_task(s.wave("third", 2))
        await asyncio.sleep(0)
        assert not standing.done(), "it waits for a group as admission does"
        await s.fail("first", first[1].group_id, "engine died")
        assert [(t.index, t.actor_id) for t in await asyncio.wait_for(standing, 1)] == [(1, "third")]
        await s.leave("third")
        assert await s.wave("third", 2) == [], "it has left"
        await s.close()
        assert await s.wave("first", 2) == []

    run(scenario())


@pytest.mark.parametrize("seed", [0, 1, 123_456_789])
def test_no_two_responses_of_a_run_have_the_same_seed_nor_those_of_another_run(seed):
    def seeds(of: int) -> list[int]:
        s = Stream(pool(), of, 1000, 50, 16, 3, Cursor())
        return [number for ticket in run(admitted(s)) for number in ticket.seeds]

    drawn, others = seeds(seed), seeds(seed + 1)
    assert len({*drawn, *others}) == 2 * 200 * 16 and drawn == seeds(seed)
    assert all(isinstance(number, int) and 0 <= number < 2**31 for number in drawn)


def test_a_slow_group_is_waited_for_before_it_grows_too_stale():
    async def scenario():
        s = stream(max_staleness=1)
        slow, *others = await admitted(s)
        for ticket in others:
            await s.put("actor", ticket.group_id, [ticket.index])
        assert unpack(await s.batch()) == [[1], [2]]  # step 0 may go on without it
        await s.advance()
        for ticket in await admitted(s):
            await s.put("actor", ticket.group_id, [ticket.index])
        with pytest.raises(TimeoutError):  # at step 1 it is due: later would be two versions old
            await asyncio.wait_for(s.batch(), 0.05)
        await s.put("actor", slow.group_id, ["slow"])
        assert unpack(await s.batch()) == [["slow"], [3]]

    run(scenario())


def test_a_batch_leaves_no_more_for_later_than_later_batches_can_train_in_time():
    async def scenario():
        s = stream(max_staleness=2)
        for ticket in (await admitted(s))[4:]:
            await s.put("actor", ticket.group_id, [ticket.index])
        assert unpack(await s.batch()) == [[4], [5]]
        await s.advance()
        for ticket in await admitted(s):
            await s.put("actor", ticket.group_id, [ticket.index])
        with pytest.raises(TimeoutError):  # four of step 0 would be left for step 2
            await asyncio.wait_for(s.batch(), 0.05)
        await s.put("actor", "group-000003", [3])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(s.batch(), 0.05)
        await s.put("actor", "group-000001", [1])
        assert unpack(await s.batch()) == [[1], [3]]

    run(scenario())


def test_groups_of_equal_rewards_are_replaced_as_long_as_the_step_has_some_left():
    async def scenario():
        s = stream(max_staleness=0, refill=2)
        for ticket in await admitted(s):
            await s.put("actor", ticket.group_id, [ticket.index], told=ALIKE)
        (third, fourth) = await admitted(s)
        await s.put("actor", third.group_id, [2], told=ALIKE)
        assert await admitted(s) == [], "two were replaced: this one takes a place in the batch"
        await s.put("actor", fourth.group_id, [3])
        assert unpack(await s.batch()) == [[2], [3], [0], [1]]
        assert (await s.account()).trained == 4
        await s.advance()
        assert [t.index for t in await admitted(s)] == [4, 5]
        await s.put("actor", "group-000004", [4], told=ALIKE)
        assert [t.index for t in await admitted(s)] == [6], "the next step has its own"

    run(scenario())


def test_whether_a_group_teaches_is_judged_on_what_training_compares():
    """With what is earned from the reached states on, equal rewards may differ, and different ones be alike."""

    async def scenario():
        rich, poor = (Reached(name, 0.5) for name in ("rich", "poor"))
        told = {
            "alike with what comes": [Told(0.0, rich, "edit/rich"), Told(1.0, poor, "edit/poor")],
            "alike alone": [Told(0.5, rich, "edit/rich"), Told(0.5, poor, "edit/poor")],
        }
        for discount, replaced in [(0.0, "alike alone"), (0.5, "alike with what comes")]:
            known = [Known("rich", 0.5, 2.0), Known("poor", 0.5, 0.0)]
            for name, of in told.items():
                experience = Experience(values={task: list(known) for task in "ab"})
                s = Stream(StatePool(pool().states, 1, experience=experience), 7, 9, 2, 4, 0, Cursor(), 2, discount)
                first, _ = await admitted(s)
                await s.put("actor", first.group_id, [0], told=of)
                assert len(await admitted(s)) == (name == replaced), f"{name} under {discount}"

    run(scenario())


def test_what_was_tried_and_trained_on_before_takes_no_place_of_what_is_new():
    async def scenario():
        s = stream(max_staleness=0, states=1, refill=1)
        told = [Told(0.5, None, "edit/a"), Told(1.0, None, "edit/b")]
        tried = frozenset(one.tried for one in told)
        state = (await admitted(s))[0].state
        for new in (True, False):
            (ticket,) = s._in_flight.values()
            s._in_flight[ticket.group_id] = replace(ticket, state=state)  # as if it had been drawn again
            await s.put("actor", ticket.group_id, [ticket.index], told=told)
            assert len(await admitted(s)) == (0 if new else 1)
            if new:
                assert unpack(await s.batch()) == [[0]]
                await s.advance(tried=[(state.id, tried)])
                assert (await s.account()).repeated == 0
                assert len(await admitted(s)) == 1
        (ticket,) = s._in_flight.values()
        await s.put("actor", ticket.group_id, [ticket.index], told=[*told, Told(0.0, None, "edit/c")])
        assert unpack(await s.batch()) == [[2], [1]], "what repeats is delivered beside what is new"
        cursor = await s.advance(tried=[(state.id, tried | {"edit/c"}), (state.id, tried)], saved=True)
        assert (await s.account()).repeated == 1
        assert cursor.experience.tried == {state.id: ["edit/c", "edit/a", "edit/b"]}
        assert not StatePool(pool().states, 7, experience=cursor.experience).teaches(state, told, 0.0)

    run(scenario())


def test_a_replaced_group_of_a_resumed_run_is_delivered_and_sampled_no_more():
    async def scenario():
        s = stream(refill=1)
        tickets = await admitted(s)
        for ticket in tickets[:2]:
            await s.put("actor", ticket.group_id, [ticket.index])
        await s.batch()
        await s.put("actor", tickets[2].group_id, [2], told=ALIKE)
        resumed = stream(cursor=await s.advance(saved=True), refill=1)
        again = await admitted(resumed)
        assert [ticket.index for ticket in again] == [3, 4, 5, 6], "three in its place and that of the batch"
        for ticket in again[:2]:
            await resumed.put("actor", ticket.group_id, [ticket.index])
        assert unpack(await resumed.batch()) == [[3], [4], [2]]

    run(scenario())


def test_each_group_is_delivered_once_and_failures_are_given_to_another_actor():
    async def scenario():
        s = stream(states=1, max_staleness=0)
        (ticket,) = await admitted(s)
        await s.fail("actor", ticket.group_id, "engine died")
        (again,) = await admitted(s)
        assert (again.index, again.seeds, again.state) == (ticket.index, ticket.seeds, ticket.state)
        await s.put("actor", again.group_id, ["once"])
        await s.put("actor", again.group_id, ["twice"])
        assert unpack(await s.batch()) == [["once"]]
        await s.advance()
        for _ in range(MAX_TRIES):
            (ticket,) = await admitted(s)
            await s.fail("actor", ticket.group_id, "no engine")
        with pytest.raises(StreamError, match="no engine"):
            await s.batch()

    run(scenario())


def test_a_cursor_repeats_only_what_was_in_flight():
    async def scenario():
        s = stream(max_staleness=2)
        tickets = await admitted(s)
        for ticket in tickets[2:5]:
            await s.put("actor", ticket.group_id, [ticket.index])
        await s.batch()
        cursor = await s.advance(saved=True)
        assert (cursor.step, cursor.next_index, cursor.trained) == (1, 6, 2)
        resumed = stream(max_staleness=2, cursor=cursor)
        redone = await admitted(resumed)
        assert [(t.index, t.seeds, t.state) for t in redone[:3]] == [
            (t.index, t.seeds, t.state) for t in (*tickets[:2], tickets[5])
        ]
        assert [t.index for t in redone[3:]] == [6, 7]
        for ticket in redone:
            await resumed.put("actor", ticket.group_id, [ticket.index])
        assert unpack(await resumed.batch()) == [[4], [0]], "the oldest tokens first"

    run(scenario())


def test_a_group_goes_on_from_its_state_though_that_has_left_the_pool_and_the_run_is_resumed():
    async def scenario():
        first = Stream(StatePool([State("s", "t", "s")], 0, most=1), 7, 20, 1, 4, 9, Cursor())
        await first.advance({}, [State("n1", "t", "n1")])
        tickets = await admitted(first)
        unsaved = await first.advance({"n1": 0.0}, [State("n2", "t", "n2")])
        assert unsaved.experience == Experience() and not unsaved.untrained and not unsaved.gone
        cursor = await first.advance(saved=True)
        assert [state.id for state in cursor.experience.added] == ["n2"]
        assert {state.id for state in cursor.gone} == {"n1"}
        left = {ticket.index: ticket.state for ticket in tickets}

        def resumed(of: Cursor) -> Stream:
            return Stream(StatePool([State("s", "t", "s")], 0, experience=of.experience, most=1), 7, 20, 1, 4, 9, of)

        again = {ticket.index: ticket.state for ticket in await admitted(resumed(cursor))}
        assert again.items() >= {number: left[number] for number in cursor.untrained}.items()
        with pytest.raises(StreamError, match="state n1.*not of one run"):
            resumed(replace(cursor, gone=[]))

    run(scenario())


def test_an_actor_that_left_gives_its_groups_back_without_a_try_and_gets_no_more():
    async def scenario():
        s = stream(max_staleness=0)
        tickets = await admitted(s, "lost")
        standing = asyncio.create_task(s.admit("lost"))
        await asyncio.sleep(0)
        assert await s.leave("lost") == len(tickets) == 2
        assert await asyncio.wait_for(standing, 1) is None
        again = await admitted(s, "other")
        assert [(t.index, t.tries, t.actor_id) for t in again] == [(0, 1, "other"), (1, 1, "other")]
        await s.put("lost", tickets[0].group_id, ["from the lost one, which was only slow"])
        await s.fail("lost", tickets[1].group_id, "so is this")
        for ticket in again:
            await s.put("other", ticket.group_id, ["once"])
        assert unpack(await s.batch()) == [["once"], ["once"]]
        account = await s.account()
        assert (account.started, account.trained, account.ready, account.in_flight, account.again) == (2, 2, 0, 0, 0)

    run(scenario())


def test_actors_at_admission_are_woken_in_turn_and_only_as_many_as_may_start():
    async def scenario():
        s = stream(steps=9, states=2, max_staleness=0)
        for ticket in await admitted(s):
            await s.put("actor", ticket.group_id, [ticket.index])
        standing = [asyncio.create_task(s.admit(f"actor-{i}")) for i in range(5)]
        await asyncio.sleep(0)
        await s.batch()
        await s.advance()
        await asyncio.sleep(0.01)
        assert [task.done() for task in standing] == [True, True, False, False, False]
        await s.close()
        assert [await task for task in standing[2:]] == [None] * 3

    run(scenario())


def test_what_actors_stand_is_counted_while_they_do_and_when_they_have(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])

    async def scenario():
        s = stream(states=1, max_staleness=0)
        (ticket,) = await admitted(s)
        standing = [asyncio.create_task(s.admit(name)) for name in ("first", "second")]
        await asyncio.sleep(0)
        seconds[0] = 3.0
        assert (await s.account()).actors_waited == 6.0
        await s.fail("actor", ticket.group_id, "a defect")
        await standing[0]
        seconds[0] = 5.0
        assert (await s.account()).actors_waited == 3.0 + 5.0
        await s.leave("second")
        seconds[0] = 9.0
        assert (await s.account()).actors_waited == 3.0 + 5.0

    run(scenario())


def test_a_learner_that_waits_hears_of_a_group_that_nobody_can_finish_and_of_one_it_need_not_wait_for():
    async def scenario():
        s = stream(max_staleness=0)
        waiting = asyncio.create_task(s.batch())
        for _ in range(MAX_TRIES):
            await asyncio.sleep(0)
            await s.fail("actor", (await s.admit("actor")).group_id, "no engine")
        with pytest.raises(StreamError, match="no engine"):
            await asyncio.wait_for(waiting, 1)

        s = stream(max_staleness=1)
        slow, *others = await admitted(s)
        for ticket in others:
            await s.put("actor", ticket.group_id, [ticket.index])
        await s.batch()
        await s.advance()
        (ticket, _) = await admitted(s)
        await s.put("actor", ticket.group_id, [ticket.index])
        waiting = asyncio.create_task(s.batch())
        await asyncio.sleep(0)
        await s.fail("actor", slow.group_id, "a defect")  # sampled again, its tokens are new ones
        assert unpack(await asyncio.wait_for(waiting, 1)) == [[3], [4]]

    run(scenario())


def test_no_group_goes_to_a_caller_that_was_ended_while_it_stood():
    async def scenario():
        s = stream(states=1, max_staleness=0)
        (ticket,) = await admitted(s)
        ended, next_one = (asyncio.create_task(s.admit(name)) for name in ("ended", "next"))
        await asyncio.sleep(0)
        ended.cancel()
        await asyncio.sleep(0)
        await s.fail("actor", ticket.group_id, "a defect")
        assert (await asyncio.wait_for(next_one, 1)).index == ticket.index

    run(scenario())


def test_the_words_of_a_transition_are_pickled_by_value_on_every_python():
    packed = b"".join(pickle.dumps(word, protocol=5) for word in (Outcome.EDITED, Origin.RUN, Direction.MAXIMIZE))
    assert b"getattr" not in packed and pickle.loads(packed) is Outcome.EDITED
