"""What an outcome is worth: the published rewards (reward/published.py), and the socket for others. Pure.

`reward.version` is `v1`, `v2`, or the import path of a `RewardFunction` (docs/extend.md); all are taken by one door.
More terms, off by default, so that the published reward is what a run gets unless it says otherwise: `time` and
`memory` take off a share for what an experiment used of its limits, and `truncated=soft` for what a response used of
its own, whatever the version. Invariant: a reward is the sum of its named parts, which are finite; no score that is
withheld for reports reaches it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from envs.records import Direction, Durations, Limits, Outcome, State, StepResult, Task
from envs.sockets import SocketError, imported, tried
from reward.published import Terms, v1, v2

__all__ = ["Reward", "RewardFunction", "Terms", "check", "reward", "shared"]
KEY = "reward.version"


class RewardFunction(Protocol):
    """What one action is worth, from what it did and the figures of its task (m_init, m_best, direction, limits)."""

    def __call__(self, result: StepResult, task: Task, terms: Terms) -> Mapping[str, float]:
        """Named parts that add up to the reward. Never called for infrastructure failures; must be pure."""


VERSIONS: dict[str, RewardFunction] = {"v1": v1, "v2": v2}
PUBLISHED = Terms()
OVERLONG = 0.2
"""Share of its limit at whose start a response begins to be too long."""


@dataclass(frozen=True)
class Reward:
    """A reward and the named parts that add up to it."""

    value: float
    parts: dict[str, float]


def reward(result: StepResult, task: Task, terms: Terms = PUBLISHED) -> Reward:
    """Reward of one action.

    Raises:
        ValueError: for an infrastructure failure, which has no reward and must be masked; for an edit without a score.
        SocketError: there is no such version, or what it returns is no reward.
    """
    if result.outcome is Outcome.INFRA_FAILURE:
        raise ValueError("an infrastructure failure has no reward: mask the transition")
    parts = _parts(result, task, terms)
    if terms.time:
        parts["time"] = -terms.time * min(1.0, result.durations.execute / task.limits.seconds)
    if terms.memory:
        parts["memory"] = -terms.memory * min(1.0, result.peak_mb / task.limits.memory_mb)
    if terms.truncated == "soft":
        parts["overlong"] = overlong(result.response_used)
    return Reward(sum(parts.values()), parts)


def overlong(used: float) -> float:
    """DAPO's soft overlong punishment (arXiv 2503.14476, equation 13), in [−1, 0].

    used: share of its limit of tokens that a response took; of the paper's 20,480 the last 4,096 are punished.
    """
    return -min(1.0, max(0.0, (used - 1 + OVERLONG) / OVERLONG))


def _parts(result: StepResult, task: Task, terms: Terms) -> dict[str, float]:
    function = VERSIONS.get(terms.version) or imported(terms.version, f"{KEY}={terms.version}")
    parts = function(replace(result, withheld=None), replace(task, m_init_test=None), terms)
    if not isinstance(parts, Mapping) or not parts:
        raise SocketError(f"{KEY}={terms.version} must return named parts, such as {{'gain': 0.5}}, not {parts!r}")
    for name, value in parts.items():
        if not isinstance(name, str) or not isinstance(value, int | float) or not math.isfinite(value):
            raise SocketError(f"{KEY}={terms.version}: part {name!r} must be a finite number, not {value!r}")
    return {name: float(value) for name, value in parts.items()}


def shared(rewards: Sequence[float]) -> float:
    """What each action of an episode is worth: the mean of the rewards that count, 0 where none does."""
    return float(np.mean(rewards)) if len(rewards) else 0.0


def check(terms: Terms) -> None:
    """Try a reward on samples: every outcome, either direction, with and without what may be missing.

    Raises:
        SocketError: it cannot be used.
    """
    with tried(f"{KEY}={terms.version}"):
        for outcome in Outcome:
            if outcome is Outcome.INFRA_FAILURE:
                continue
            graded = SAMPLE if outcome is Outcome.EDITED else replace(SAMPLE, score_after=None)
            for result in (graded, replace(graded, score_before=None, best_before=None)):
                for direction in Direction:
                    for m_best in (0.9, None):
                        task = replace(SAMPLE_TASK, direction=direction, m_best=m_best)
                        reward(replace(result, outcome=outcome), task, terms)


SAMPLE = StepResult(
    action="edit", outcome=Outcome.EDITED, score_before=0.5, score_after=0.6, observation="", log_tail="",
    durations=Durations(execute=1.0), state=State("sample", "sample", ""), peak_mb=100.0, milestones=("data_opened",),
    best_before=0.55,
)  # fmt: skip
SAMPLE_TASK = Task(
    id="sample", problem="", env_dir=Path(), private_dir=Path(), script="train.py", read_only=frozenset(),
    metric="accuracy", direction=Direction.MAXIMIZE, split="held_in", limits=Limits(), m_best=0.9, m_init=0.5,
)  # fmt: skip
