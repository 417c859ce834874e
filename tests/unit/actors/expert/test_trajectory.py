"""What a trajectory came to, which tells a script that is broken from one that was left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.expert.trajectory import Ending, Move, ending
from envs.records import Direction, Durations, Limits, Outcome, State, StepResult, Task

BROKEN, NEUTRAL, EDITED = Outcome.SCRIPT_ERROR, Outcome.NEUTRAL, Outcome.EDITED


def task(direction: Direction) -> Task:
    return Task(
        "t", "", Path(), Path(), "train.py", frozenset(), "metric", direction, "held_in", Limits(), None, m_init=1.0
    )


def move(outcome: Outcome, after: float | None, score: float | None) -> Move:
    """after: what the action's run scored; score: of the script as the action left it."""
    reached = State("s", "t", "", score=score)
    return Move(State("s", "t", ""), "", StepResult("", outcome, 1.0, after, "", "", Durations(), reached))


READ, BREAK = move(NEUTRAL, None, 1.0), move(BROKEN, None, None)


@pytest.mark.parametrize(
    ("moves", "failure", "expected"),
    [
        ((), "", Ending.LEVEL),
        ((READ,), "", Ending.LEVEL),  # reading runs nothing, and breaks nothing
        ((BREAK,), "", Ending.FAILED),
        ((BREAK, READ), "", Ending.LEVEL),  # it was taken back
        ((BREAK, move(NEUTRAL, None, None)), "", Ending.FAILED),  # it was only read
        ((BREAK,), "the endpoint failed", Ending.CUT),
        ((move(EDITED, 0.5, 0.5), BREAK), "the endpoint failed", Ending.IMPROVED),
        ((move(EDITED, 1.5, 1.5),), "", Ending.LEVEL),
    ],
)
def test_an_ending_is_told_by_scores_and_by_the_script_that_is_left(moves, failure, expected):
    assert ending(moves, task(Direction.MINIMIZE), failure) is expected


def test_better_is_what_the_metric_says():
    for direction, score in ((Direction.MAXIMIZE, 1.5), (Direction.MINIMIZE, 0.5)):
        assert ending((move(EDITED, score, score),), task(direction), "") is Ending.IMPROVED
        assert ending((move(EDITED, 2.0 - score, 2.0 - score),), task(direction), "") is Ending.LEVEL
