"""What attempts are worth: the figures of an evaluation, as pure functions.

With s the score that an attempt begins with, p the one that it comes to, and σ = ±1 so that more is better:
* improvement: σ(p − s) / |m_init|, the gain relative to the unchanged script (ML-Agent, arXiv 2505.23723);
* gap: σ(p − s) / σ(m_best − m_init), the part of the task's range; undefined where the task has none.
An episode begins at m_init; the scale of a single step is that of its task, wherever it begins.
Of an episode p is the best score on its way (s among them: a script that is worse need not be kept), of a single step
that of its edit, and s where it brought none. These are scores on validation, by which scripts are chosen; `test_…` are
the same of the scripts so chosen on test, and optimism is by how much the former are above the latter, which is what
over-fitting to the feedback looks like. Medals are those of the test score, and `official_medals` those of the score on
all answers, which the leaderboard has. Invariants: attempts that were cut by a failure of the infrastructure
enter no figure but their count; a figure of nothing is null; tasks weigh the same in the figures of several.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from actors.attempts import STEP, Attempt, Tried
from envs.records import Origin, Outcome, Task
from learner.figures.statistics import VALID, bootstrap_interval, over_tasks


def kept(attempt: Attempt, task: Task) -> Tried | None:
    """The action that led to the script which an attempt comes to; None where that is the one that it begins with."""
    if attempt.setting == STEP:
        edits = [action for action in attempt.tried if action.outcome is Outcome.EDITED and action.score is not None]
        return edits[-1] if edits else None
    ran, sign = [action for action in attempt.tried if action.score is not None], task.direction.sign
    best = max(ran, key=lambda action: sign * action.score, default=None)  # of equals the first, which was run
    return best if best and sign * best.score > sign * attempt.start else None


def reached(attempt: Attempt, task: Task) -> float:
    """The score that an attempt came to: p above."""
    action = kept(attempt, task)
    return action.score if action else attempt.start


def reached_on_test(attempt: Attempt, task: Task) -> float | None:
    """The same script's score on test; None where it is not known."""
    action = kept(attempt, task)
    if not action:
        return attempt.start_test
    return action.withheld.test if action.withheld else None


def _gain(attempt: Attempt, task: Task) -> float:
    return task.direction.sign * (reached(attempt, task) - attempt.start)


def improvement(attempt: Attempt, task: Task) -> float:
    """Relative to |m_init|, or to one where that is zero."""
    return _gain(attempt, task) / (abs(task.m_init) or 1.0)


def improvement_on_test(attempt: Attempt, task: Task) -> float | None:
    """The same on test; None where there is no part of the answers for it, or a score is not known."""
    score = reached_on_test(attempt, task) if task.parts else None
    if None in (score, attempt.start_test, task.m_init_test):
        return None
    return task.direction.sign * (score - attempt.start_test) / (abs(task.m_init_test) or 1.0)


def optimism(attempt: Attempt, task: Task) -> float | None:
    """None where that on test is."""
    tested = improvement_on_test(attempt, task)
    return improvement(attempt, task) - tested if tested is not None else None


def gap_closed(attempt: Attempt, task: Task) -> float | None:
    """None where m_best is not known, or the unchanged script is not short of it."""
    span = 0.0 if task.m_best is None else task.direction.sign * (task.m_best - task.m_init)
    return _gain(attempt, task) / span if span > 0 else None


def medal(attempt: Attempt, task: Task) -> str | None:
    """The best medal of the task that the attempt's test score earns."""
    return _earned(reached_on_test(attempt, task), task)


def official_medal(attempt: Attempt, task: Task) -> str | None:
    """That of its score on all answers, where it changed the script."""
    action = kept(attempt, task)
    return _earned(action.withheld.whole if action and action.withheld else None, task)


def _earned(score: float | None, task: Task) -> str | None:
    sign = task.direction.sign
    return next((name for name, least in task.medals if score is not None and sign * score >= sign * least), None)


def figures(attempts: Sequence[Attempt], tasks: Mapping[str, Task]) -> dict[str, Any]:
    """The figures of one agent in one setting, over one task or several.

    `{n, cut, improvement, improvement_ci, best_improvement, test_improvement, test_improvement_ci,
    best_test_improvement, optimism, optimism_ci, gap, gap_ci, best_gap, valid_rate, reward, reward_ci, medals: {name:
    attempts}, official_medals, actions, truncated, experiments, cached, experiment_seconds, generate_seconds,
    prompt_tokens,
    response_tokens}`: improvement, optimism, gap and reward are means over attempts, `best_*` the best attempt's, the
    valid rate that of actions, each of them averaged over tasks; intervals are 95 % bootstrap intervals over the
    attempts of each task, that of optimism over tasks, where there are several; `best_test_improvement` is that of the
    attempt which is best on validation; the rest are sums, and seconds those of the experiments as they once ran where
    the cache had them.
    """
    counted = [attempt for attempt in attempts if not attempt.failure]
    by_task = {task_id: [attempt for attempt in counted if attempt.task_id == task_id] for task_id in tasks}
    by_task = {task_id: of_task for task_id, of_task in by_task.items() if of_task}

    def known(value_of: Callable[[Attempt, Task], float | None]) -> list[np.ndarray]:
        values = [_known(value_of(attempt, tasks[name]) for attempt in of_task) for name, of_task in by_task.items()]
        return [of_task for of_task in values if of_task.size]

    gained, tested, closed = known(improvement), known(improvement_on_test), known(gap_closed)
    apart, rewards = known(optimism), known(lambda attempt, _: _reward(attempt))
    best = [max(of_task, key=lambda a, task=tasks[name]: improvement(a, task)) for name, of_task in by_task.items()]
    best_on_test = _known(improvement_on_test(attempt, tasks[attempt.task_id]) for attempt in best)
    actions = [[action for attempt in of_task for action in attempt.tried] for of_task in by_task.values()]
    valid = [np.array([action.outcome in VALID for action in of_task]) for of_task in actions if of_task]
    every = [action for of_task in actions for action in of_task]
    medals, official = (
        collections.Counter(earned(attempt, tasks[name]) for name, of_task in by_task.items() for attempt in of_task)
        for earned in (medal, official_medal)
    )
    named = dict.fromkeys(name for task_id in by_task for name, _ in tasks[task_id].medals)
    return {
        "n": sum(map(len, by_task.values())),
        "cut": sum(bool(attempt.failure) for attempt in attempts),
        "improvement": _mean(gained),
        "improvement_ci": bootstrap_interval(gained),
        "best_improvement": _mean(gained, np.max),
        "test_improvement": _mean(tested),
        "test_improvement_ci": bootstrap_interval(tested),
        "best_test_improvement": float(best_on_test.mean()) if best_on_test.size else None,
        "optimism": _mean(apart),
        "optimism_ci": over_tasks([values.mean() for values in apart]),
        "gap": _mean(closed),
        "gap_ci": bootstrap_interval(closed),
        "best_gap": _mean(closed, np.max),
        "valid_rate": _mean(valid),
        "reward": _mean(rewards),
        "reward_ci": bootstrap_interval(rewards),
        "medals": {name: medals[name] for name in named},
        "official_medals": {name: official[name] for name in named},
        **_used(every),
    }


def difference(
    attempts: Sequence[Attempt], others: Sequence[Attempt], tasks: Mapping[str, Task]
) -> dict[str, Any]:  # fmt: skip
    """By how much the mean improvement, also on test, and reward of `attempts` are above those of `others`, with 95 %
    intervals.

    Of the trials that both made: an attempt is compared with the other's from the same state with the same seed, since
    such attempts go alike as far as the agents are alike, and these pairs are resampled.
    """
    by_trial = {_trial(attempt): attempt for attempt in others if not attempt.failure}
    ended = [attempt for attempt in attempts if not attempt.failure and attempt.task_id in tasks]
    pairs = [(attempt, by_trial[_trial(attempt)]) for attempt in ended if _trial(attempt) in by_trial]
    values: dict[str, Callable[[Attempt], float | None]] = {
        "improvement": lambda attempt: improvement(attempt, tasks[attempt.task_id]),
        "test_improvement": lambda attempt: improvement_on_test(attempt, tasks[attempt.task_id]),
        "reward": _reward,
    }
    differences: dict[str, Any] = {}
    for name, value_of in values.items():
        known = [(attempt.task_id, value_of(attempt), value_of(other)) for attempt, other in pairs]
        apart = [
            _known(value - other for task, value, other in known if task == task_id and None not in (value, other))
            for task_id in tasks
        ]
        apart = [values for values in apart if values.size]
        differences |= {name: _mean(apart), f"{name}_ci": bootstrap_interval(apart)}
    return differences


def _trial(attempt: Attempt) -> tuple[str, str, str, int]:
    return attempt.setting, attempt.task_id, attempt.state_id, attempt.seed


def _reward(attempt: Attempt) -> float | None:
    """Mean over the attempt's actions."""
    return float(np.mean([action.reward for action in attempt.tried])) if attempt.tried else None


def _used(actions: Sequence[Tried]) -> dict[str, Any]:
    experiments = [action for action in actions if action.durations.execute]
    return {
        "actions": len(actions),
        "truncated": sum(action.outcome is Outcome.TRUNCATED for action in actions),
        "experiments": len(experiments),
        "cached": sum(action.origin is Origin.CACHE for action in experiments),
        "experiment_seconds": sum(action.durations.execute for action in experiments),
        "generate_seconds": sum(action.seconds for action in actions),
        "prompt_tokens": sum(action.prompt_tokens for action in actions),
        "response_tokens": sum(action.response_tokens for action in actions),
    }


def _known(values: Iterable[float | None]) -> np.ndarray:
    return np.array([value for value in values if value is not None], np.float64)


def _mean(by_task: Sequence[np.ndarray], of_task: Callable[[np.ndarray], Any] = np.mean) -> float | None:
    return float(np.mean([of_task(values) for values in by_task])) if by_task else None
