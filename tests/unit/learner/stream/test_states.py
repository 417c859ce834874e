"""The state pool: what is drawn, how often, and what training adds to it."""

from __future__ import annotations

import collections
from dataclasses import replace

import numpy as np
import pytest

from envs.records import Outcome, Reached, State, Step, Transition
from learner.stream.states import FLOOR, MEMORY, Experience, StatePool, StatePoolError, what_was_seen
from learner.stream.values import Known


def pool() -> StatePool:
    return StatePool([State(f"{t}{i}", t, snapshot=f"{t}{i}") for t in "ab" for i in range(3)], seed=1)


def test_progress_prefers_states_whose_rewards_vary_and_gives_none_up():
    found = StatePool(pool().states, 5, "progress")
    found.learn({"a0": 0.4, "a1": 0.0, "a2": 0.0, "b0": 0.0, "b1": 0.0, "b2": 0.2})
    counts = collections.Counter(found.draw(i).id for i in range(12_000))
    share = {name: counts[name] / 12_000 for name in counts}
    total = 1 + (FLOOR + 0.9 * 0.5) + 4 * FLOOR
    assert share["a0"] == pytest.approx(1 / total, abs=0.012)
    assert share["b2"] == pytest.approx((FLOOR + 0.45) / total, rel=0.15)
    assert share["a1"] == pytest.approx(FLOOR / total, rel=0.3)
    assert collections.Counter(StatePool(pool().states, 5, "progress").draw(i).id for i in range(600))["b1"] > 60


def test_a_state_that_was_never_tried_counts_as_the_one_that_varies_most():
    found = StatePool(pool().states, 5, "progress")
    found.learn({"a0": 0.4, "a1": 0.0})
    counts = collections.Counter(found.draw(i).id for i in range(5000))
    total = 5 + FLOOR
    assert counts["a1"] / 5000 == pytest.approx(FLOOR / total, rel=0.3)
    for untried in ("a2", "b0", "b1", "b2"):
        assert counts[untried] / 5000 == pytest.approx(1 / total, rel=0.15)


def test_the_newest_spread_of_a_state_weighs_more_than_older_ones_do():
    found = StatePool(pool().states, 5, "progress")
    for spread in (0.4, 0.0, 0.2):
        found.learn({"a0": spread})
    assert found.experience().spread == {"a0": pytest.approx((0.4 * MEMORY) * MEMORY + 0.2 * (1 - MEMORY))}


def test_what_a_step_saw_is_what_the_pool_learns_but_for_failures_of_the_infrastructure():
    none, good = np.zeros(0, np.int32), State("new", "a", "new")

    def member(state: str, reward: float, outcome=Outcome.EDITED, successor: State | None = None) -> Transition:
        return Transition("t", "g", state, "a", none, none, none, (), outcome, reward, successor=successor)

    groups = [
        [member("a0", 0.0), member("a0", 1.0, successor=good), member("a0", 9.0, Outcome.INFRA_FAILURE)],
        [member("b1", 0.5, Outcome.INVALID), replace(member("b1", 0.25), future=0.25)],
        [member("b2", 0.3, Outcome.INFRA_FAILURE, State("lost", "b", "lost"))],
        [member("a2", 0.3)],
    ]
    spreads, found, earned, tried = what_was_seen(groups)
    assert (spreads, found) == ({"a0": 0.5, "b1": 0.0, "a2": 0.0}, [good]), "of what is compared"
    assert earned == {"a0": 0.5, "b1": 0.5, "a2": 0.3}
    assert tried == [(name, frozenset({"/"})) for name in ("a0", "b1", "a2")]
    excluded = [[replace(t, excluded=True) for t in group] for group in groups]
    assert what_was_seen(excluded) == ({}, [], {}, []), "nor is anything learned of what is left out"
    grown = StatePool(pool().states, 5)
    grown.learn(*what_was_seen(groups))
    assert [state for state in grown.states if state not in pool().states] == [good]
    assert good in [grown.draw(i) for i in range(40)]
    assert good.id not in [state.id for state in pool().states] and grown.by_id("new") == good


@pytest.mark.parametrize("sampling", ["uniform", "balanced", "progress"])
def test_a_curriculum_begins_with_short_experiments(sampling):
    states = [State(f"{t}{i}", t, f"{t}{i}") for t in ("a@0.1", "a", "b@0.1", "b") for i in range(2)]
    found = StatePool(states, 5, sampling, short=12)
    assert {found.draw(i).task_id for i in range(12)} == {"a@0.1", "b@0.1"}
    assert {found.draw(i).task_id for i in range(12, 30)} == {"a", "b"}
    assert {StatePool(states, 5, sampling).draw(i).task_id for i in range(60)} == {"a@0.1", "b@0.1", "a", "b"}


def test_what_was_learned_survives_a_restart_and_good_states_join_once():
    first = StatePool(pool().states, 5, "progress")
    good = State("new", "a", snapshot="new")
    first.learn({"a0": 0.4}, [good, good, pool().states[0]])
    first.learn({"a0": 0.0})
    assert first.experience() == Experience({"a0": 0.2}, [good])
    second = StatePool(pool().states, 5, "progress", first.experience())
    assert [second.draw(i) for i in range(50)] == [first.draw(i) for i in range(50)]
    assert good in [second.draw(i) for i in range(50)]


def reached(task: str, *names: str) -> list[State]:
    return [State(name, task, snapshot=name) for name in names]


def test_of_too_many_states_of_a_task_those_leave_whose_rewards_vary_least_and_of_equals_the_oldest():
    found = StatePool(pool().states, 5, most=3)
    found.learn({"a0": 0.5}, [*reached("a", "n1", "n2", "n3"), *reached("b", "m1")])
    found.learn({"n1": 0.5, "n2": 0.1, "n3": 0.2})
    found.learn({}, reached("a", "n4", "n5"))
    assert [state.id for state in found.experience().added] == ["n1", "m1", "n4", "n5"]
    assert found.experience().spread == {"a0": 0.5, "n1": 0.5}, "of those that left nothing is kept"
    found.learn({"n2": 0.9}, reached("a", "n6"))
    assert [state.id for state in found.experience().added] == ["m1", "n4", "n5", "n6"], "n1 varies as untried ones do"
    assert "n2" not in found.experience().spread and found.by_id("n1") is None
    drawn = {found.draw(i).id for i in range(400)}
    assert drawn == {state.id for state in found.states} == {"a0", "a1", "a2", "b0", "b1", "b2", "m1", "n4", "n5", "n6"}


def test_a_script_that_is_in_the_pool_joins_it_no_more_whatever_led_to_it():
    found = StatePool(pool().states, 5)
    known = State("k", "a", "a0", (Step("act", "seen"),))
    found.learn({}, [known, replace(known, id="n", snapshot="s"), replace(known, id="m", snapshot="s")])
    assert [state.id for state in found.experience().added] == ["n"]
    found.learn({}, [replace(known, id="o", task_id="b", snapshot="s")])
    assert [state.id for state in found.experience().added] == ["n", "o"], "of another task it is another one"


def test_half_of_a_balanced_task_is_drawn_from_what_the_policy_reached():
    found = StatePool(pool().states, 5)
    before = [found.draw(i) for i in range(40)]
    found.learn({}, reached("a", "n1"))
    counts = collections.Counter(found.draw(i).id for i in range(4000))
    assert counts["n1"] == pytest.approx(1000, rel=0.1)
    assert [counts[name] for name in ("b0", "b1", "b2")] == pytest.approx([667] * 3, rel=0.15)
    others = [(state, found.draw(i)) for i, state in enumerate(before) if state.task_id == "b"]
    assert all(then == now for then, now in others), "of tasks without any it is as before"


def test_draws_are_balanced_over_tasks_and_reproducible():
    unbalanced = [State("a0", "a", "a0"), *(State(f"b{i}", "b", f"b{i}") for i in range(9))]
    drawn = [StatePool(unbalanced, seed=3).draw(i) for i in range(40)]
    assert sum(s.task_id == "a" for s in drawn) == 20
    assert drawn == [StatePool(unbalanced, seed=3).draw(i) for i in range(40)]
    assert len({s.id for s in drawn if s.task_id == "b"}) > 4
    rounds = {tuple(s.task_id for s in drawn[start : start + 2]) for start in range(0, 40, 2)}
    assert rounds == {("a", "b"), ("b", "a")}, "in a random order"


def test_uniform_draws_are_balanced_over_states():
    unbalanced = [State("a0", "a", "a0"), *(State(f"b{i}", "b", f"b{i}") for i in range(9))]
    drawn = [StatePool(unbalanced, 3, "uniform").draw(i) for i in range(1000)]
    assert sum(s.task_id == "a" for s in drawn) == pytest.approx(100, abs=30)


def test_a_pool_survives_saving_and_a_damaged_file_is_named(tmp_path):
    file = tmp_path / "states.json"
    pool().save(file)
    assert StatePool.load(file, 1, ["a", "b"]).states == pool().states
    assert pool().kinds() == {"initial": 6}
    with pytest.raises(StatePoolError, match="tasks.held_in"):
        StatePool.load(file, 1, ["a"])
    file.write_text(file.read_text()[:50])
    with pytest.raises(StatePoolError, match="states.json"):
        StatePool.load(file, 1, ["a", "b"])


def test_a_saved_pool_draws_as_a_new_one(tmp_path):
    file, tasks = tmp_path / "states.json", ["a@0.1", "b"]
    states = [State(f"{t}{i}", t, snapshot=f"{t}{i}") for t in tasks for i in range(3)]
    StatePool(states, 7).save(file)
    learned = Experience({"b0": 9.0}, [State("new", "b", snapshot="new")], {"b": [Known("b0", 0.5, 2.0)]})
    reached = [("b", Reached("b0", 0.5)), ("b", Reached("x", 0.6)), ("b", None), ("a@0.1", Reached("x", 0.6))]
    assert StatePool(states, 7, experience=learned).values(reached) == [2.0, 2.0, 0.0, 0.0]
    for given in ((7,), (7, "uniform"), (7, "progress", learned), (7, "balanced", None, 20)):
        new, saved = StatePool(states, *given), StatePool.load(file, given[0], tasks, *given[1:])
        assert [saved.draw(i) for i in range(40)] == [new.draw(i) for i in range(40)], given
