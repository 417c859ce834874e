"""Tries what a configuration names by import path, before anything starts.

Invariant: where it names nothing from outside, nothing is imported.
"""

from __future__ import annotations

from learner.config.schema import Config


def refused(cfg: Config) -> str | None:
    """Why a part from outside cannot be used, naming its key; None if all can."""
    if ":" not in cfg.rl.algorithm:
        return None
    from envs.sockets import SocketError
    from learner.algorithm import algorithms

    try:
        algorithms.check(cfg.rl.algorithm)
    except SocketError as error:
        return str(error)
    return None
