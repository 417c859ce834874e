"""Which actions of an expert are imitated (exploration-enriched fine-tuning, arXiv 2505.23723). Pure.

By validity: an action that failed is never imitated, the action that repaired it is. By improvement: others have to
leave a better score than they found, and of these the largest are kept. By diversity: no action of a state twice, and
where there are too many, those that differ most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from actors.expert.ideas import farthest, tfidf
from actors.expert.trajectory import Trajectory
from envs.records import Outcome, State, StepResult, Task


@dataclass(frozen=True)
class Choice:
    """An action worth imitating."""

    state: State
    text: str
    gain: float
    """What it improved the score by, larger is better, in the task's metric; infinite for a repair."""


def gain(result: StepResult, task: Task) -> float:
    """By how much the action left a better score than it found; −∞ where it left none."""
    if result.score_after is None or result.score_before is None:
        return -math.inf
    return task.direction.sign * (result.score_after - result.score_before)


def worth_imitating(trajectories: Iterable[Trajectory], tasks: Mapping[str, Task]) -> list[Choice]:
    """Distinct actions whose edit ran and improved the score, or repaired a broken script."""
    chosen: dict[tuple[str, str, str], Choice] = {}
    for trajectory in trajectories:
        for state, text, result in trajectory.moves:
            if result.outcome is not Outcome.EDITED:
                continue
            repaired = state.score is None and bool(state.history) and result.score_after is not None
            worth = math.inf if repaired else gain(result, tasks[state.task_id])
            if worth > 0:
                chosen.setdefault((state.task_id, state.snapshot, text), Choice(state, text, worth))
    return list(chosen.values())


def select(choices: Sequence[Choice], best: float, most: int, seed: int) -> list[Choice]:
    """Of each task the repairs and the `best` share of the improvements, and of these the `most` that differ most.

    most: 0 for no bound. In the given order.
    """
    kept: set[int] = set()
    for task_id in dict.fromkeys(choice.state.task_id for choice in choices):
        of_task = [i for i, choice in enumerate(choices) if choice.state.task_id == task_id]
        repairs = [i for i in of_task if math.isinf(choices[i].gain)]
        improved = sorted(set(of_task) - set(repairs), key=lambda i: -choices[i].gain)
        kept_of_task = [*repairs, *improved[: math.ceil(best * len(improved))]]
        if 0 < most < len(kept_of_task):
            texts = [choices[i].text for i in kept_of_task]
            kept_of_task = [kept_of_task[i] for i in farthest(tfidf(texts), most, seed)]
        kept |= set(kept_of_task)
    return [choice for i, choice in enumerate(choices) if i in kept]
