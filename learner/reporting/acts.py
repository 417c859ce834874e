"""What the actors of a run do now and tried last, as a page shows it; what of it is trained comes to the transitions.

Invariant: text that a policy or an experiment wrote leaves here with control characters as visible codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from learner.figures.action_text import diff, visible
from learner.figures.text import duration
from learner.run import acting

SHOWN = 12
"""Most of each kind, of all actors."""


def shown(run_dir: Path, now: float) -> dict[str, list]:
    """`doing`: [task, part, how long, actor, id] of actions without a result, those begun first; `tried`: the last that
    have one, the newest first."""
    said = acting.said(run_dir, now)
    doing = sorted(((one, of.actor) for of in said for one in of.doing), key=lambda pair: pair[0].began)
    tried = sorted(((one, of.actor) for of in said for one in of.tried), key=lambda pair: -pair[0].ended)
    return {
        "doing": [
            [visible(one.task), one.part, duration(now - one.since), actor, visible(one.id)]
            for one, actor in doing[:SHOWN]
        ],
        "tried": [_line(one, actor, now) for one, actor in tried[:SHOWN]],
    }


def _line(one: acting.Tried, actor: str, now: float) -> dict[str, Any]:
    return {
        "key": f"{one.id}/{one.ended}",  # a group that is tried again has the ids of before
        "id": visible(one.id),
        "task": visible(one.task),
        "actor": actor,
        "action": one.action,
        "outcome": one.outcome,
        "reward": one.reward,
        "before": one.before,
        "after": one.after,
        "ago": duration(now - one.ended),
        "diff": diff(one.text),
        "log": visible(one.log),
    }
