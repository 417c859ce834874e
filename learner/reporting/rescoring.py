"""Another reward on the transitions that a run stored, and what it would have changed. Pure, but for reading the run.

Invariants: a reward is given what the run stored, and one that reads anything else is refused by name; transitions that
were masked (those without an advantage) enter no figure; with the run's own reward the stored rewards come out, to the
bit. No submission is stored, so that scores stay as they were graded.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs.errors import UserError
from envs.records import Durations, Origin, Outcome, StepResult, Task
from learner.algorithm.advantages import advantages
from learner.algorithm.algorithms import named
from learner.algorithm.best_of import Best
from learner.algorithm.entropic import Entropic
from learner.run import task_figures, transitions
from learner.run.task_figures import TaskFigures
from reward import Terms, reward, shared

COLUMNS = (
    "step", "id", "group_id", "task_id", "action", "outcome", "reward", "score_before", "best_before", "score_after",
    "advantage", "log_tail", "peak_mb", "milestones", "origin", "queue_seconds", "restore_seconds", "execute_seconds",
    "grade_seconds", "response_ids",
)  # fmt: skip


DIGITS = 6
"""Of advantages that count: a mean of rewards is rounded."""


class RescoreError(UserError):
    """A run that another reward cannot be applied to; the message says what is missing."""


class NotStored:
    """In the place of what a run does not store: whoever uses it is refused."""

    def __init__(self, what: str):
        self._what = what

    def _refuse(self, *_: Any) -> Any:
        raise RescoreError(f"this reward reads {self._what}, which a run does not store: it cannot be applied again")

    __getattr__ = __bool__ = __call__ = __contains__ = __eq__ = __format__ = __fspath__ = __getitem__ = _refuse
    __add__ = __hash__ = __iter__ = __len__ = __rsub__ = __str__ = __truediv__ = _refuse


@dataclass(frozen=True)
class Rescored:
    """A transition with its reward as stored and by the other reward."""

    step: int
    id: str
    group: str
    task: str
    outcome: str
    before: float
    after: float


@dataclass(frozen=True)
class Changes:
    """Of the transitions of a task, or of all."""

    actions: int
    mean_before: float
    mean_after: float
    changed: int
    """Rewards that differ."""
    reordered: int
    """Actions that come before or after another one of their group as they did not."""
    turned: int | None
    """Advantages of another sign; None where the advantage is not made of the group's rewards alone."""


def rescored(run_dir: Path, terms: Terms, episode_steps: int, longest: int) -> list[Rescored]:
    """The run's transitions under the reward of `terms`, in order of learner steps, but for those that were masked.

    episode_steps: of the run's configuration; above 1 the actions of an episode share their reward; longest: its
    `model.response`.

    Raises:
        RescoreError: the run stored no transitions, or not what the reward reads.
        NoFigures: it stored nothing of its tasks.
        SocketError: what the reward returns is none.
    """
    tasks = {name: _task(of) for name, of in task_figures.read(run_dir).items()}
    try:
        rows = list(transitions.read(run_dir, COLUMNS, counted=["response_ids"]))
    except ValueError as error:
        raise RescoreError(str(error)) from error
    if not rows:
        raise RescoreError(f"{run_dir} has no transitions: nothing was trained on yet")
    if unknown := sorted({row["task_id"] for row in rows} - set(tasks)):
        raise RescoreError(f"{run_dir / task_figures.FILE} has no task {unknown[0]}, of which there are transitions")
    counted = [row for row in rows if row["advantage"] is not None]
    worth = [reward(_result(row, longest), tasks[row["task_id"]], terms).value for row in counted]
    if episode_steps > 1:
        worth = _shared([row["id"].rpartition("/")[0] for row in counted], worth)
    return [
        Rescored(row["step"], row["id"], row["group_id"], row["task_id"], row["outcome"], row["reward"], value)
        for row, value in zip(counted, worth, strict=True)
    ]


def changes(
    those: Sequence[Rescored],
    algorithm: str,
    best: Best | Entropic | None = None,
    episode_steps: int = 1,
    discount: float = 0.0,
) -> Changes:
    """algorithm, episode_steps, discount: those of the run's `rl`; best: its objective, if not the mean."""
    groups = [list(group) for _, group in itertools.groupby(those, key=lambda one: (one.step, one.group))]
    from_group = not named(algorithm).value_head and not discount
    return Changes(
        actions=len(those),
        mean_before=float(np.mean([one.before for one in those])),
        mean_after=float(np.mean([one.after for one in those])),
        changed=sum(one.before != one.after for one in those),
        reordered=sum(map(_reordered, groups)),
        turned=sum(_turned(group, algorithm, best, episode_steps) for group in groups) if from_group else None,
    )


def _reordered(group: Sequence[Rescored]) -> int:
    orders = [np.sign(np.subtract.outer(values, values)) for values in _rewards(group)]
    return int((orders[0] != orders[1]).any(axis=1).sum())


def _turned(group: Sequence[Rescored], algorithm: str, best: Best | Entropic | None, episode_steps: int) -> int:
    samples = [one.id.rpartition("/")[0] for one in group] if episode_steps > 1 else ()
    one_group, all_valid = [0] * len(group), [True] * len(group)
    before, after = (
        np.sign(advantages(algorithm, values.tolist(), one_group, all_valid, best, samples).values.round(DIGITS))
        for values in _rewards(group)
    )
    return int((before != after).sum())


def _rewards(group: Iterable[Rescored]) -> tuple[np.ndarray, np.ndarray]:
    group = list(group)
    return np.array([one.before for one in group]), np.array([one.after for one in group])


def _shared(episodes: Sequence[str], worth: Sequence[float]) -> list[float]:
    of_episode: dict[str, list[float]] = {}
    for episode, value in zip(episodes, worth, strict=True):
        of_episode.setdefault(episode, []).append(value)
    return [shared(of_episode[episode]) for episode in episodes]


def _task(of: TaskFigures) -> Task:
    """What a reward may know of a task."""
    missing: Any = [NotStored(f"task.{name}") for name in ("problem", "env_dir", "private_dir", "script", "read_only")]
    problem, env_dir, private_dir, script, read_only = missing
    return Task(
        id=of.id, problem=problem, env_dir=env_dir, private_dir=private_dir, script=script, read_only=read_only,
        metric=of.metric, direction=of.direction, split=of.split, limits=of.limits, m_best=of.m_best, m_init=of.m_init,
        digest=of.digest, fidelity=of.fidelity,
    )  # fmt: skip


def _result(row: Mapping[str, Any], longest: int) -> StepResult:
    observation: Any = NotStored("result.observation")
    state: Any = NotStored("result.state")
    best: Any = row["best_before"] if "best_before" in row else NotStored("result.best_before")  # of an earlier version
    parts = ("queue", "restore", "execute", "grade")
    return StepResult(
        action=row["action"], outcome=Outcome(row["outcome"]), score_before=row["score_before"],
        score_after=row["score_after"], observation=observation, log_tail=row["log_tail"],
        durations=Durations(*(row[f"{part}_seconds"] for part in parts)), state=state, peak_mb=row["peak_mb"],
        milestones=tuple(row["milestones"]), origin=Origin(row["origin"]), response_used=row["response_ids"] / longest,
        best_before=best,
    )  # fmt: skip
