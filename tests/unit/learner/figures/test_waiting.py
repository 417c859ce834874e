"""Where the wait for a batch was spent, against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.records import Durations, Origin, Outcome, StepInfo, Transition
from learner.figures.waiting import PARTS, in_words, waited_for

EMPTY = np.zeros(0, np.int32)
SPENT = Durations(queue=8, restore=1, execute=4, grade=2)


def member(name: str, finished: float, durations: Durations = SPENT, generate=5.0, origin=Origin.RUN) -> Transition:
    """With what is spent by default it begins 20 seconds before its end."""
    info = StepInfo(durations=durations, generate_seconds=generate, origin=origin, finished=finished)
    return Transition(name, name.split("/")[0], "s", "t", EMPTY, EMPTY, EMPTY, (), Outcome.EDITED, 0.5, info=info)


def told(groups, asked: float, received: float) -> list[float]:
    spent = waited_for(groups, asked, received)
    assert tuple(spent) == PARTS
    return [spent[part] for part in PARTS]


@pytest.mark.parametrize(
    ("asked", "received", "spent"),
    [
        (70.0, 101.0, [10, 5, 8, 1, 4, 2, 1]),  # it began at 80 and ended at 100
        (95.0, 100.0, [0, 0, 0, 0, 3, 2, 0]),
        (82.0, 100.5, [0, 3, 8, 1, 4, 2, 0.5]),
        (100.5, 101.0, [0, 0, 0, 0, 0, 0, 0.5]),  # the learner came later than the batch
        (70.0, 90.0, [10, 5, 5, 0, 0, 0, 0]),  # clocks that do not agree: nothing is told twice
    ],
)
def test_the_last_member_is_followed_back_through_the_wait(asked, received, spent):
    groups = [[member("a/000", 40.0), member("a/001", 99.0)], [member("b/000", 100.0), member("b/001", 60.0)]]
    assert told(groups, asked, received) == spent


def test_what_a_cached_experiment_once_took_was_not_waited_for():
    assert told([[member("a/000", 100.0, origin=Origin.CACHE)]], 90.0, 101.0) == [5, 5, 0, 0, 0, 0, 1]


def test_an_episode_is_followed_back_through_its_actions():
    quick = Durations(execute=1)
    episode = [member("a/000/00", 90.0), member("a/000/01", 98.0, quick, 2.0), member("a/000/02", 100.0, quick, 1.0)]
    beside = [member("a/001/00", 99.0), member("b/000/00", 99.5)]
    assert told([episode + beside[:1], beside[1:]], 60.0, 101.0) == [10, 8, 8, 1, 6, 2, 6]


seconds = st.floats(0, 100)


@given(st.lists(st.tuples(seconds, seconds, seconds, seconds, seconds, seconds), min_size=1), seconds, seconds)
def test_the_parts_add_up_to_the_wait(members, asked, wait):
    every = [member(f"a/{i:03d}", 50 + end, Durations(*of), generate) for i, (end, generate, *of) in enumerate(members)]
    spent = told([every], asked, asked + wait)
    assert min(spent) >= 0 and sum(spent) == pytest.approx(wait, abs=1e-9)


def test_it_is_said_in_shares_of_the_step_the_largest_first():
    spent = dict(zip(PARTS, (1.0, 2.0, 4.0, 0.5, 0.5, 0.5, 0.05), strict=True))
    assert in_words(spent, publish=1.0, seconds=10.0) == (
        "waits 86%: queue 40%, sampling 20%, experiments 15%, admission 10%; publishes 10%"
    )
    assert in_words({}, publish=1.0, seconds=10.0) == "waits 0%; publishes 10%" and in_words({}, 0.0, 0.0) == ""
