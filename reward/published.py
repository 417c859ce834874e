"""The agentic ML reward of arXiv 2505.23723, in both published versions. Pure.

With scores oriented so that larger is better, gain = m_after − m_before and range = m_best − m_init:

| case | v1 (2025) | v2 (2026) |
|---|---|---|
| invalid action, truncated response, or the script fails | 0 | −1 |
| valid action that edits nothing, out of memory, time-out | 0.5 | 0 |
| successful edit | sigmoid(steepness · gain / range) | gain / range |

(The table was read from secondary sources.) v1's steepness is 100 in the paper, where it saturates at about 5 % of the
range; at 3 the whole range counts. v2 is not clipped, as published. Where the range is not positive, since the start
is as good as the best known score or none is known, |m_init| (or 1) takes its place, so that gains still count. An
edit that repairs a script whose start never ran is compared with m_init.

`over=best` takes the best score on the way so far in the place of m_before, and a gain below 0 for 0: what is paid for
is the best script that there will be, since the gains of an episode then add up to its best score less the first (v2).
A script that was tried before is worth no more than an action that edits nothing.

`milestones`, off by default, gives a script that fails a part of the way from failure to neutral for how far it was
seen to get (after arXiv 2509.01684).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from envs.records import MILESTONES, Outcome, StepResult, Task

NEUTRAL = frozenset({Outcome.NEUTRAL, Outcome.OUT_OF_MEMORY, Outcome.TIMEOUT})
PAPER_STEEPNESS = 100.0


@dataclass(frozen=True)
class Terms:
    """Which reward it is."""

    version: str = "v1"
    """Of the published ones, or an import path."""
    steepness: float = PAPER_STEEPNESS
    """v1: factor on gain / range inside the sigmoid."""
    over: str = "last"
    """What an edit has to be better than: the `last` valid score, or the `best` so far."""
    milestones: float = 0.0
    """In [0, 1]: share of the way from failure to neutral that a failing script can earn."""
    time: float = 0.0
    """Taken off for an experiment that takes its whole time limit, in proportion for one that takes less."""
    memory: float = 0.0
    """The same for its memory limit."""
    truncated: str = "mask"
    """What becomes of truncated responses: `mask`, `failure` or `soft`; a mask is the business of who trains."""

    @classmethod
    def of(cls, section: Any) -> Terms:
        """Those that the section `reward` of a configuration states."""
        return cls(**{field.name: getattr(section, field.name) for field in fields(cls)})


def v1(result: StepResult, task: Task, terms: Terms) -> dict[str, float]:
    """Of 2025: in [0, 1]."""
    if result.outcome is Outcome.EDITED:
        return {"improvement": sigmoid(terms.steepness * relative_gain(result, task, terms.over))}
    return _without_gain(result, terms, failure=0.0, neutral=0.5)


def v2(result: StepResult, task: Task, terms: Terms) -> dict[str, float]:
    """Of 2026: −1 for failures, otherwise unbounded."""
    if result.outcome is Outcome.EDITED:
        return {"improvement": relative_gain(result, task, terms.over)}
    return _without_gain(result, terms, failure=-1.0, neutral=0.0)


def _without_gain(result: StepResult, terms: Terms, failure: float, neutral: float) -> dict[str, float]:
    if result.outcome in NEUTRAL:
        return {"neutral": neutral}
    parts = {"failure": failure}
    if terms.milestones and result.outcome is Outcome.SCRIPT_ERROR:
        reached = len(set(result.milestones) & set(MILESTONES)) / len(MILESTONES)
        parts["milestones"] = terms.milestones * reached * (neutral - failure)
    return parts


def relative_gain(result: StepResult, task: Task, over: str = "last") -> float:
    """gain / range of an edit. Raises ValueError where a score is missing that every graded edit has."""
    if result.score_after is None or task.m_init is None:
        raise ValueError("a graded edit needs score_after and m_init")
    start = result.best_before if over == "best" else result.score_before
    gain = task.direction.sign * (result.score_after - (task.m_init if start is None else start))
    return (max(0.0, gain) if over == "best" else gain) / span(task)


def span(task: Task) -> float:
    """What gains of a task are measured by, above 0: m_best − m_init, larger is better; |m_init| or 1 where that is not
    above 0, or not known."""
    m_init = task.m_init or 0.0
    known = 0.0 if task.m_best is None else task.direction.sign * (task.m_best - m_init)
    return known if known > 0 else abs(m_init) or 1.0


def sigmoid(x: float) -> float:
    """1 / (1 + e^−x), without overflow."""
    return 0.5 * (1.0 + math.tanh(0.5 * x))
