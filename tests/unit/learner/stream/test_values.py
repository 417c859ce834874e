"""What is earned from a state on, on chains whose values are known exactly, and what it makes of advantages."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from envs.records import Outcome, Reached, State, Transition
from learner.algorithm import policy_batch
from learner.config.schema import RlConfig
from learner.stream.states import StatePool, what_was_seen
from learner.stream.values import KNOWN, NEAR, Values

DISCOUNT = 0.9
Chain = Mapping[str, list[tuple[float, str | None]]]
"""By script, of each action its reward and the script that it leads to; None: the episode is over."""
LATER: Chain = {
    "start": [(0.3, "end of the road"), (0.0, "on the way"), (0.0, "start")],
    "end of the road": [(0.0, "end of the road"), (0.0, None), (0.0, "end of the road")],
    "on the way": [(0.0, "nearly there"), (0.0, "on the way"), (0.0, "start")],
    "nearly there": [(1.0, None), (0.0, "nearly there"), (0.0, "nearly there")],
}
"""Somebody who is after the first reward gets no other."""


def tried(chain: Chain, script: str, pool: StatePool, discount: float) -> list[Transition]:
    """A group with each action of the script once, as a session gives it to the learner."""
    ids, even = np.arange(2, dtype=np.int32), np.zeros(2, np.float32)
    made = []
    for number, (reward, to) in enumerate(chain[script]):
        reached = Reached(to, 0.0) if to else None
        future = discount * pool.values([("t", reached)])[0]
        name = f"{script}/{number}"
        made.append(
            Transition(
                name, script, script, "t", ids, ids, even, (), Outcome.EDITED, reward, reached=reached, future=future
            )
        )
    return made


def experienced(chain: Chain, discount: float = DISCOUNT, rounds: int = 150) -> StatePool:
    pool = StatePool([State(script, "t", script, score=0.0) for script in chain], 0)
    for _ in range(rounds):
        pool.learn(*what_was_seen([tried(chain, script, pool, discount) for script in chain]))
    return pool


def values(chain: Chain, policy: Mapping[str, np.ndarray], discount: float) -> dict[str, float]:
    """V of each script, from Bellman's equations as a linear system."""
    names = list(chain)
    matrix, earned = np.eye(len(names)), np.zeros(len(names))
    for row, name in enumerate(names):
        for odds, (reward, to) in zip(policy[name], chain[name], strict=True):
            earned[row] += odds * reward
            if to:
                matrix[row, names.index(to)] -= discount * odds
    return dict(zip(names, np.linalg.solve(matrix, earned), strict=True))


EVENLY = {name: np.full(3, 1 / 3) for name in LATER}


@pytest.mark.parametrize("discount", [0.0, 0.5, DISCOUNT])
def test_what_a_pool_learns_is_the_value_of_each_state_under_the_policy(discount):
    pool, exact = experienced(LATER, discount), values(LATER, EVENLY, discount)
    assert pool.values([("t", Reached(name, 0.0)) for name in LATER]) == pytest.approx([exact[name] for name in LATER])


def test_the_advantage_prefers_the_step_whose_reward_comes_later():
    def advantages(discount: float) -> list[float]:
        group = tried(LATER, "start", experienced(LATER), discount)
        found = policy_batch.build([group], 1, 100, RlConfig(algorithm="centred")).advantages
        return [found[t.id] for t in group]

    exact = values(LATER, EVENLY, DISCOUNT)
    worth = np.array([reward + DISCOUNT * exact[to] for reward, to in LATER["start"]])
    assert advantages(DISCOUNT) == pytest.approx(worth - worth.mean()) and np.argmax(advantages(DISCOUNT)) == 1
    assert np.argmax(advantages(0.0)) == 0, "which a step for itself does not"


def test_the_gradient_is_that_of_what_an_episode_earns_in_all():
    """Of V(start) by the logits of the policy there: the advantages times how often an episode comes by."""
    group = tried(LATER, "start", experienced(LATER), DISCOUNT)
    found = policy_batch.build([group], 1, 100, RlConfig(algorithm="centred")).advantages
    gradient = EVENLY["start"] * [found[t.id] for t in group]

    def value(logits: np.ndarray) -> float:
        return values(LATER, EVENLY | {"start": np.exp(logits) / np.exp(logits).sum()}, DISCOUNT)["start"]

    change = 1e-6
    exact = np.array([(value(change * one) - value(-change * one)) / (2 * change) for one in np.eye(3)])
    often = np.linalg.norm(exact) / np.linalg.norm(gradient)
    assert exact == pytest.approx(often * gradient, abs=1e-6) and often > 1


def test_a_script_that_was_not_tried_is_worth_what_those_with_scores_like_its_own_are():
    found = Values({}, {"t": 10.0})
    assert found.of("t", Reached("new", 1.0)) == 0.0
    for name, score, earned in (("low", 1.0, 0.2), ("high", 9.0, 0.8), ("broken", None, 0.1)):
        found.learn("t", Reached(name, score), earned)
    assert found.of("t", Reached("low", 5.0)) == 0.2, "one that was tried is known by its text"
    assert found.of("t", Reached("new", 5.0)) == pytest.approx(0.5)
    far = math.exp(-7.0 / (NEAR * 10.0)), math.exp(-1.0 / (NEAR * 10.0))
    assert found.of("t", Reached("new", 8.0)) == pytest.approx((far[0] * 0.2 + far[1] * 0.8) / sum(far))
    assert found.of("t", Reached("new", 1e9)) == pytest.approx(0.5), "so far away that both are"
    assert found.of("t", Reached("new", None)) == 0.1
    assert found.of("t", None) == found.of("other", Reached("low", 1.0)) == 0.0


def test_estimates_move_half_way_and_only_so_many_scripts_are_remembered():
    known: dict = {}
    found = Values(known, {})
    found.learn("t", Reached("first", 0.0), 1.0)
    found.learn("t", Reached("second", 0.0), 3.0)
    found.learn("t", Reached("first", 0.0), 0.0)
    assert [(one.snapshot, one.value) for one in known["t"]] == [("second", 3.0), ("first", 0.5)]
    for number in range(KNOWN - 1):
        found.learn("t", Reached(f"n{number}", 0.0), 0.0)
    assert len(known["t"]) == KNOWN and known["t"][0].snapshot == "first"
