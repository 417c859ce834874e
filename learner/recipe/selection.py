"""Which actions of an expert are imitated (exploration-enriched fine-tuning, arXiv 2505.23723). Pure.

By validity: an action that failed is never imitated, the action that repaired it is. By usefulness: an edit, or the run
of one, has to leave a better score than it found, and of these the largest are kept; an Undo has to give back a better
one; a Final Answer comes when the best version is there, and better than the first; what reads, notes or only writes is
as useful as what comes next. By diversity: no action of a state twice, and where there are too many, those that differ
most.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from actors.expert.ideas import farthest, tfidf
from actors.expert.trajectory import Move, Trajectory
from envs.actions import FinalAnswer
from envs.records import Outcome, State, StepResult, Task


@dataclass(frozen=True)
class Choice:
    """An action worth imitating."""

    state: State
    text: str
    gain: float
    """What it improved the score by, or led to, larger is better, in the task's metric; infinite for a repair."""
    kind: str = "edit"
    edits: bool = True
    """It changes files."""


def gain(result: StepResult, task: Task) -> float:
    """By how much the action left a better score than it found; −∞ where it left none."""
    if result.score_after is None or result.score_before is None:
        return -math.inf
    return task.direction.sign * (result.score_after - result.score_before)


def worth_imitating(trajectories: Iterable[Trajectory], tasks: Mapping[str, Task]) -> list[Choice]:
    """Distinct actions that were useful, of every kind; tasks: with m_init."""
    chosen: dict[tuple[str, str, str], Choice] = {}
    for trajectory in trajectories:
        task, following, useful = tasks[trajectory.task_id], 0.0, list[Choice]()
        for number, move in reversed(list(enumerate(trajectory.moves))):
            following = _worth(move, task, trajectory.moves[:number], following)
            if following > 0:
                edits = _edits_made(move) > 0
                useful.append(Choice(move.state, move.text, following, move.result.action, edits))
        for choice in reversed(useful):
            chosen.setdefault((choice.state.task_id, choice.state.snapshot, choice.text), choice)
    return list(chosen.values())


def _worth(move: Move, task: Task, before: Sequence[Move], following: float) -> float:
    """What a move was good for, as `Choice.gain`; not above 0: nothing. following: what the next one was good for."""
    state, _, result = move
    if result.outcome is Outcome.EDITED:
        failed = state.score is None and bool(state.history) and not state.unrun
        return math.inf if failed and result.score_after is not None else gain(result, task)
    if result.outcome is not Outcome.NEUTRAL:
        return 0.0
    sign, reached = task.direction.sign, result.state.score
    if _edits_made(move) < 0:
        if reached is None or state.unrun:
            return 0.0
        return math.inf if state.score is None else sign * (reached - state.score)
    if result.action == FinalAnswer.kind:
        scores = [task.m_init, *(one.result.score_after for one in before)]
        best = max(sign * score for score in scores if score is not None)
        return 0.0 if reached is None or sign * reached < best else sign * (reached - task.m_init)
    return 0.0 if result.score_after is not None else following  # what ran again was known


def _edits_made(move: Move) -> int:
    return len(move.result.state.undo) - len(move.state.undo)


def select(choices: Sequence[Choice], best: float, most: int, others: float, seed: int) -> list[Choice]:
    """Of each task the repairs and the `best` share of the improvements, what was useful beside them, and of all these
    the `most` that differ most.

    most: 0 for no bound; others: largest share of what edits nothing, all kinds of which come in turn, the most useful
    first. In the given order.
    """
    kept: set[int] = set()
    for task_id in dict.fromkeys(choice.state.task_id for choice in choices):
        of_task = [i for i, choice in enumerate(choices) if choice.state.task_id == task_id]
        by_use = sorted(of_task, key=lambda i: -choices[i].gain)
        edits = [i for i in by_use if choices[i].edits]
        repairs = [i for i in edits if math.isinf(choices[i].gain)]
        improved = edits[len(repairs) :]
        kept_of_task = [*repairs, *improved[: math.ceil(best * len(improved))]]
        kept_of_task += _in_turn(choices, by_use)[: int(others / (1 - others) * len(kept_of_task))]
        if 0 < most < len(kept_of_task):
            texts = [choices[i].text for i in kept_of_task]
            kept_of_task = [kept_of_task[i] for i in farthest(tfidf(texts), most, seed)]
        kept |= set(kept_of_task)
    return [choice for i, choice in enumerate(choices) if i in kept]


def _in_turn(choices: Sequence[Choice], order: Sequence[int]) -> list[int]:
    """Of those that edit nothing the first of each kind, then the second of each, and so on."""
    of_kinds: dict[str, list[int]] = {}
    for i in order:
        if not choices[i].edits:
            of_kinds.setdefault(choices[i].kind, []).append(i)
    return [i for turn in itertools.zip_longest(*of_kinds.values()) for i in turn if i is not None]
