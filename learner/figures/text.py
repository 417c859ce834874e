"""Figures as a person reads them, in tables, panels and pages: pure functions."""

from __future__ import annotations

from envs.records import Direction

SPLITS = {"held_in": "held-in", "held_out": "held-out"}
ARROWS = {Direction.MAXIMIZE: "↑", Direction.MINIMIZE: "↓"}


def number(value: float | None) -> str:
    """A figure for a table, at most four digits wide where it can be; a dash where there is none."""
    if value is None:
        return "–"
    digits = sum(abs(value) < limit for limit in (10, 100, 1000))
    return f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}".replace("-", "\u2212")


def duration(seconds: float) -> str:
    """`8s`, `4m10s`, `1h02m`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    if not minutes:
        return f"{rest}s"
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
