"""What of the configuration the stream works by, seen from the actors' side of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from actors.runtime.remote import place
from envs.records import Outcome, Reached, State, Transition
from learner.config.defaults import defaults
from learner.run.session import Session
from learner.stream.states import Experience, StatePool
from learner.stream.stream import Cursor, Ticket
from learner.stream.values import Known

POOL = [State(f"{task}{i}", task, f"{task}{i}") for task in "ab" for i in range(3)]


class Actors:
    """In the place of the pool: gives the stream away."""

    bounds = (1, 1)

    def collect(self, stream: Any) -> None:
        self.stream = stream


def admitted(**settings: Any) -> list[Ticket]:
    """All that one actor after the other is let in for at once; those that stand are told to stop in the end."""
    cfg, actors = defaults(), Actors()
    cfg.run.mode, cfg.rl.states, cfg.rl.actions, cfg.rl.steps, cfg.rl.max_staleness = "serial", 2, 3, 100, 1
    for key, value in settings.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    Session(cfg, StatePool(POOL, 0), Cursor(), actors, _Silent(), None)
    asked = [actors.stream.admit.remote(f"actor-{number}") for number in range(12)]
    here = place("serial")
    let_in, standing = here.wait(asked, num_returns=len(asked), timeout=0.0)
    here.get(actors.stream.close.remote())
    assert here.get(standing, timeout=10) == [None] * len(standing)
    return here.get(let_in)


class _Silent:
    def say(self, text: str) -> None:
        pass


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_so_many_groups_are_started_as_can_be_trained_in_time(staleness):
    tickets = admitted(rl__max_staleness=staleness)
    assert len(tickets) == (staleness + 1) * 2 and all(len(ticket.seeds) == 3 for ticket in tickets)


def test_no_more_is_started_than_the_run_trains():
    assert [ticket.index for ticket in admitted(rl__steps=2, rl__max_staleness=3)] == [0, 1, 2, 3]


def test_a_run_with_another_seed_samples_otherwise_and_one_with_the_same_alike():
    seeds = {seed: [ticket.seeds for ticket in admitted(run__seed=seed)] for seed in (0, 1, 2)}
    assert len({tuple(of_run) for of_run in seeds.values()}) == 3
    assert [ticket.seeds for ticket in admitted(run__seed=2)] == seeds[2]


def test_what_is_earned_from_the_reached_states_on_is_in_the_worth_of_what_the_learner_gets():
    cfg, actors, reached = defaults(), Actors(), [Reached("a1", 0.5), None]
    cfg.run.mode, cfg.rl.states, cfg.rl.steps, cfg.rl.discount = "serial", 1, 2, 0.5
    learned = Experience(values={"a": [Known("a1", 0.5, 3.0)]})
    session = Session(cfg, StatePool(POOL, 0, experience=learned), Cursor(), actors, _Silent(), None)
    ids, even = np.arange(2, dtype=np.int32), np.zeros(2, np.float32)
    groups = [
        [
            Transition(f"t{k}", "g", "a0", "a", ids, ids, even, (), Outcome.EDITED, 1.0, reached=to)
            for k, to in enumerate(reached)
        ]
    ]
    found = session._with_future(groups)
    assert [(t.reward, t.future, t.worth) for t in found[0]] == [(1.0, 1.5, 2.5), (1.0, 0.0, 1.0)]
    cursor = session.advance(found, saved=True)
    assert {one.snapshot: one.value for one in cursor.experience.values["a"]} == {"a1": 3.0, "a0": (2.5 + 1.0) / 2}
    cfg.rl.discount = 0.0
    assert session._with_future(groups) is groups
