"""Tries what a configuration names by import path, before anything starts.

Invariant: the room of a part is imported only where the part is from outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from learner.config.schema import Config


def refused(cfg: Config) -> str | None:
    """Why a part from outside cannot be used, naming its key; None if all can."""
    from envs.sockets import SocketError

    try:
        if ":" in cfg.reward.version:
            import reward

            reward.check(reward.Terms(**cast(Mapping[str, Any], cfg.reward)))
        if ":" in cfg.rl.algorithm:
            from learner.algorithm import algorithms

            algorithms.check(cfg.rl.algorithm)
    except SocketError as error:
        return str(error)
    for split in ("held_in", "held_out"):
        for name in getattr(cfg.tasks, split):
            if ":" in name:
                from envs.benchmarks import sources

                try:
                    sources.check(name)
                except SocketError as error:
                    return f"tasks.{split}={name}: {error}"
    return None
