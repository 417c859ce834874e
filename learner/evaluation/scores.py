"""What attempts are worth: the figures of an evaluation, as pure functions.

With s the score that an attempt begins with, p the one that it comes to, and σ = ±1 so that more is better:
* improvement: σ(p − s) / |m_init|, the gain relative to the unchanged script (ML-Agent, arXiv 2505.23723);
* gap: σ(p − s) / σ(m_best − m_init), the part of the task's range; undefined where the task has none.
An episode begins at m_init; the scale of a single step is that of its task, wherever it begins.
Of an episode p is the best score on its way (s among them: a script that is worse need not be kept), of a single step
that of its edit, and s where it brought none. Invariants: attempts that were cut by a failure of the infrastructure
enter no figure but their count; a figure of nothing is null; tasks weigh the same in the figures of several.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from actors.attempts import STEP, Attempt, Tried
from envs.records import Origin, Outcome, Task
from learner.figures.statistics import VALID, bootstrap_interval


def reached(attempt: Attempt, task: Task) -> float:
    """The score that an attempt came to: p above."""
    if attempt.setting == STEP:
        edits = [one.score for one in attempt.tried if one.outcome is Outcome.EDITED and one.score is not None]
        return edits[-1] if edits else attempt.start
    scores = [one.score for one in attempt.tried if one.score is not None]
    return task.direction.sign * max(task.direction.sign * score for score in (attempt.start, *scores))


def _gain(attempt: Attempt, task: Task) -> float:
    return task.direction.sign * (reached(attempt, task) - attempt.start)


def improvement(attempt: Attempt, task: Task) -> float:
    """Relative to |m_init|, or to one where that is zero."""
    return _gain(attempt, task) / (abs(task.m_init) or 1.0)


def gap_closed(attempt: Attempt, task: Task) -> float | None:
    """None where m_best is not known, or the unchanged script is not short of it."""
    span = 0.0 if task.m_best is None else task.direction.sign * (task.m_best - task.m_init)
    return _gain(attempt, task) / span if span > 0 else None


def medal(attempt: Attempt, task: Task) -> str | None:
    """The best medal of the task that the attempt's score earns."""
    score, sign = reached(attempt, task), task.direction.sign
    return next((name for name, threshold in task.medals if sign * score >= sign * threshold), None)


def figures(attempts: Sequence[Attempt], tasks: Mapping[str, Task]) -> dict[str, Any]:
    """The figures of one agent in one setting, over one task or several.

    `{n, cut, improvement, improvement_ci, best_improvement, gap, gap_ci, best_gap, valid_rate, reward, reward_ci,
    medals: {name: attempts}, actions, experiments, cached, experiment_seconds, generate_seconds, prompt_tokens,
    response_tokens}`: improvement, gap and reward are means over attempts, `best_*` the best attempt's, the valid rate
    that of actions, each of them averaged over tasks; intervals are 95 % bootstrap intervals over the attempts of each
    task; the rest are sums, and seconds those of the experiments as they once ran where the cache had them.
    """
    counted = {task_id: [one for one in attempts if one.task_id == task_id and not one.failure] for task_id in tasks}
    by_task = {task_id: found for task_id, found in counted.items() if found}
    gained = [np.array([improvement(one, tasks[name]) for one in found]) for name, found in by_task.items()]
    closed = [_known(gap_closed(one, tasks[name]) for one in found) for name, found in by_task.items()]
    closed = [found for found in closed if found.size]
    rewards = [_known(_reward(one) for one in found) for found in by_task.values()]
    rewards = [found for found in rewards if found.size]
    actions = [[action for one in found for action in one.tried] for found in by_task.values()]
    every = [action for of_task in actions for action in of_task]
    medals = collections.Counter(medal(one, tasks[name]) for name, found in by_task.items() for one in found)
    return {
        "n": sum(map(len, by_task.values())),
        "cut": sum(bool(one.failure) for one in attempts),
        "improvement": _mean(gained),
        "improvement_ci": bootstrap_interval(gained),
        "best_improvement": _mean(gained, np.max),
        "gap": _mean(closed),
        "gap_ci": bootstrap_interval(closed),
        "best_gap": _mean(closed, np.max),
        "valid_rate": _mean([np.array([one.outcome in VALID for one in of_task]) for of_task in actions if of_task]),
        "reward": _mean(rewards),
        "reward_ci": bootstrap_interval(rewards),
        "medals": {name: medals[name] for task_id in by_task for name, _ in tasks[task_id].medals},
        **_used(every),
    }


def difference(
    attempts: Sequence[Attempt], others: Sequence[Attempt], tasks: Mapping[str, Task]
) -> dict[str, Any]:  # fmt: skip
    """By how much the mean improvement and reward of `attempts` are above those of `others`, with 95 % intervals.

    Of the trials that both made: an attempt is compared with the other's from the same state with the same seed, since
    such attempts go alike as far as the agents are alike, and these pairs are resampled.
    """
    theirs = {_trial(one): one for one in others if not one.failure}
    pairs = [(one, theirs[_trial(one)]) for one in attempts if not one.failure and _trial(one) in theirs]
    values: dict[str, Callable[[Attempt], float | None]] = {
        "improvement": lambda one: improvement(one, tasks[one.task_id]),
        "reward": _reward,
    }
    found: dict[str, Any] = {}
    for name, of in values.items():
        known = [(one.task_id, of(one), of(other)) for one, other in pairs if one.task_id in tasks]
        apart = [
            _known(mine - other for task, mine, other in known if task == task_id and None not in (mine, other))
            for task_id in tasks
        ]
        apart = [values for values in apart if values.size]
        found |= {name: _mean(apart), f"{name}_ci": bootstrap_interval(apart)}
    return found


def _trial(attempt: Attempt) -> tuple[str, str, str, int]:
    return attempt.setting, attempt.task_id, attempt.state_id, attempt.seed


def _reward(attempt: Attempt) -> float | None:
    """Mean over the attempt's actions."""
    return float(np.mean([one.reward for one in attempt.tried])) if attempt.tried else None


def _used(actions: Sequence[Tried]) -> dict[str, Any]:
    experiments = [one for one in actions if one.durations.execute]
    return {
        "actions": len(actions),
        "experiments": len(experiments),
        "cached": sum(one.origin is Origin.CACHE for one in experiments),
        "experiment_seconds": sum(one.durations.execute for one in experiments),
        "generate_seconds": sum(one.seconds for one in actions),
        "prompt_tokens": sum(one.prompt_tokens for one in actions),
        "response_tokens": sum(one.response_tokens for one in actions),
    }


def _known(values: Iterable[float | None]) -> np.ndarray:
    return np.array([value for value in values if value is not None], np.float64)


def _mean(by_task: Sequence[np.ndarray], of_task: Callable[[np.ndarray], Any] = np.mean) -> float | None:
    return float(np.mean([of_task(values) for values in by_task])) if by_task else None
