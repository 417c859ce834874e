"""What an outcome is worth: the agentic ML reward of arXiv 2505.23723, in both published versions. Pure.

With scores oriented so that larger is better, gain = m_after − m_before and range = m_best − m_init:

| case | v1 (2025) | v2 (2026) |
|---|---|---|
| invalid action, or the script fails | 0 | −1 |
| valid action that edits nothing, out of memory, time-out | 0.5 | 0 |
| successful edit | sigmoid(steepness · gain / range) | gain / range |

(The table was read from secondary sources.) v1's steepness is 100 in the paper, where it saturates at about 5 % of the
range; at 3 the whole range counts. v2 is not clipped, as published. Where the range is not positive, since the start
is as good as the best known score or none is known, |m_init| (or 1) takes its place, so that gains still count. An
edit that repairs a script whose start never ran is compared with m_init.

Three more terms are off by default, so that the published reward is what a run gets unless it says otherwise:
`milestones` gives a script that fails a part of the way from failure to neutral for how far it was seen to get (after
arXiv 2509.01684); `time` and `memory` take off a share for what an experiment used of its limits. Invariant: a reward
is the sum of its named parts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from envs.records import MILESTONES, Direction, Outcome, Usage

FAILED = frozenset({Outcome.INVALID, Outcome.SCRIPT_ERROR})
NEUTRAL = frozenset({Outcome.NEUTRAL, Outcome.OUT_OF_MEMORY, Outcome.TIMEOUT})
CONSTANTS = {"v1": {"failure": 0.0, "neutral": 0.5}, "v2": {"failure": -1.0, "neutral": 0.0}}
PAPER_STEEPNESS = 100.0


@dataclass(frozen=True)
class Terms:
    """Which reward it is."""

    version: str = "v1"
    steepness: float = PAPER_STEEPNESS
    """v1: factor on gain / range inside the sigmoid."""
    milestones: float = 0.0
    """In [0, 1]: share of the way from failure to neutral that a failing script can earn."""
    time: float = 0.0
    """Taken off for an experiment that takes its whole time limit, in proportion for one that takes less."""
    memory: float = 0.0
    """The same for its memory limit."""


PUBLISHED, NOTHING = Terms(), Usage()


@dataclass(frozen=True)
class Reward:
    """A reward and the named terms that add up to it."""

    value: float
    parts: dict[str, float]


def reward(
    outcome: Outcome,
    score_before: float | None,
    score_after: float | None,
    m_init: float,
    m_best: float | None,
    direction: Direction,
    terms: Terms = PUBLISHED,
    usage: Usage = NOTHING,
) -> Reward:
    """Reward of one action; scores are in the task's own metric, `None` where there is none.

    With the default terms, v1 lies in [0, 1]; v2 is −1 for failures and otherwise unbounded.

    Raises:
        ValueError: for an infrastructure failure, which has no reward and must be masked; for an edit without a score;
            for an unknown version.
    """
    if terms.version not in CONSTANTS:
        raise ValueError(f"there is no reward {terms.version!r}: use one of {', '.join(CONSTANTS)}")
    if outcome is Outcome.INFRA_FAILURE:
        raise ValueError("an infrastructure failure has no reward: mask the transition")
    failure, neutral = CONSTANTS[terms.version]["failure"], CONSTANTS[terms.version]["neutral"]
    parts = {}
    if outcome in FAILED:
        parts["failure"] = failure
        if terms.milestones and outcome is Outcome.SCRIPT_ERROR:
            reached = len(set(usage.milestones) & set(MILESTONES)) / len(MILESTONES)
            parts["milestones"] = terms.milestones * reached * (neutral - failure)
    elif outcome in NEUTRAL:
        parts["neutral"] = neutral
    else:
        relative = _relative_gain(score_before, score_after, m_init, m_best, direction)
        parts["improvement"] = sigmoid(terms.steepness * relative) if terms.version == "v1" else relative
    if terms.time:
        parts["time"] = -terms.time * usage.time
    if terms.memory:
        parts["memory"] = -terms.memory * usage.memory
    return Reward(sum(parts.values()), parts)


def _relative_gain(
    score_before: float | None, score_after: float | None, m_init: float, m_best: float | None, direction: Direction
) -> float:
    if score_after is None:
        raise ValueError("a graded edit needs score_after")
    gain = direction.sign * (score_after - (m_init if score_before is None else score_before))
    span = 0.0 if m_best is None else direction.sign * (m_best - m_init)
    return gain / (span if span > 0 else abs(m_init) or 1.0)


def sigmoid(x: float) -> float:
    """1 / (1 + e^−x), without overflow."""
    return 0.5 * (1.0 + math.tanh(0.5 * x))
