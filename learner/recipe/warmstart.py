"""The state pool of step-wise RL from an expert's trajectories: every state it passed through, errors included. Pure.

Invariants: each state once; no task has more states than another may have, and within a task no kind crowds out
another.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from actors.expert.trajectory import Move, Trajectory
from envs.records import State, Task
from learner.recipe.selection import gain

KINDS = ("initial", "middle", "plateau", "error")
STUCK = 2
"""Runs without gain after which a state is a plateau."""


def kind(state: State, task: Task, path: Sequence[Move]) -> str:
    """One of `KINDS`: unedited, its last run failed, the last runs brought no gain, or neither.

    path: the moves that led to it.
    """
    if not state.history:
        return "initial"
    if state.score is None:
        return "error"
    recent = [move.result for move in path if move.result.score_after is not None][-STUCK:]
    stuck = len(recent) == STUCK and all(gain(result, task) <= 0 for result in recent)
    return "plateau" if stuck else "middle"


def states(trajectories: Iterable[Trajectory], tasks: Mapping[str, Task]) -> list[State]:
    """Every state that trajectories passed through or ended in, with its kind."""
    passed_through = []
    for trajectory in trajectories:
        task, moves = tasks[trajectory.task_id], trajectory.moves
        passed = [*(move.state for move in moves), *(move.result.state for move in moves[-1:])]
        passed_through += [replace(state, kind=kind(state, task, moves[:i])) for i, state in enumerate(passed)]
    return passed_through


def balanced(candidates: Iterable[State], most: int, seed: int) -> list[State]:
    """Distinct states, of each task at most `most`, its kinds in turn as long as there are any."""
    distinct = {(state.task_id, state.snapshot, state.history): state for state in candidates}
    chosen: list[State] = []
    for task_id in dict.fromkeys(state.task_id for state in distinct.values()):
        of_task = [state for state in distinct.values() if state.task_id == task_id]
        random.Random(f"{seed}/{task_id}").shuffle(of_task)
        queues = [[state for state in of_task if state.kind == kind] for kind in KINDS]
        turns = [state for turn in range(len(of_task)) for queue in queues for state in queue[turn : turn + 1]]
        chosen += turns[:most]
    return chosen
