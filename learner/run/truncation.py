"""Responses that `model.response` cut: when there are so many of them that somebody should know."""

from __future__ import annotations

from learner.config.schema import Config

MANY = 0.2
"""Share of a learner step's responses; the alert MlagentTruncated has the same."""


def warning(step: int, rate: float, cfg: Config) -> str | None:
    """What to say of a learner step of whose responses `rate` were truncated; None where that is nothing to mention."""
    if rate <= MANY:
        return None
    what = {"mask": "left out of training", "failure": "rewarded as failed actions", "soft": "punished"}
    return (
        f"step {step}: {rate:.0%} of the responses were cut at model.response={cfg.model.response} tokens and "
        f"{what[cfg.reward.truncated]} (reward.truncated={cfg.reward.truncated}): raise model.response where they were "
        "on their way to an action"
    )
