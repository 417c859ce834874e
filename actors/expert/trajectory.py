"""What an expert did on a task: the record that fine-tuning examples and the state pool are made from."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from envs.records import State, StepResult, Task


class Move(NamedTuple):
    """One action of a trajectory."""

    state: State
    text: str
    result: StepResult
    """Its `state` is the one of the next move."""


class Ending(enum.StrEnum):
    """What a trajectory came to."""

    IMPROVED = "improved"
    """Some version of the script scored better than the unchanged one."""
    LEVEL = "level"
    """None did."""
    FAILED = "failed"
    """The last version does not run, and none scored better."""
    CUT = "cut"
    """None did, and the rest is missing: the sandbox or the expert's endpoint failed."""


@dataclass(frozen=True)
class Trajectory:
    """Actions of an expert on one task, in order, from the unchanged script on."""

    task_id: str
    number: int
    """Its place among the trajectories of its task; with the seed of the run it decides what the expert draws."""
    expert: str
    ideas: tuple[str, ...]
    """What the expert was given to try, in words."""
    moves: tuple[Move, ...]
    ending: Ending
    failure: str = ""
    """Why it was cut."""


def ending(moves: tuple[Move, ...], task: Task, failure: str) -> Ending:
    """What these moves came to; `task` with its measured m_init."""
    sign = task.direction.sign
    scores = [move.result.score_after for move in moves if move.result.score_after is not None]
    if any(sign * (score - task.m_init) > 0 for score in scores):
        return Ending.IMPROVED
    if failure:
        return Ending.CUT
    return Ending.FAILED if moves and moves[-1].result.state.score is None else Ending.LEVEL
