"""What a configuration names by import path, and whether it can be used here.

Invariant: the room of a part is imported only where the part is from outside.
"""

from __future__ import annotations

from learner.config.schema import Config


def outside(cfg: Config) -> list[str]:
    """The settings, `key=value`, that name a part by import path."""
    settings = [("reward.version", cfg.reward.version), ("rl.algorithm", cfg.rl.algorithm)]
    settings += [("tasks.held_in", name) for name in cfg.tasks.held_in]
    settings += [("tasks.held_out", name) for name in cfg.tasks.held_out]
    return [f"{key}={value}" for key, value in settings if ":" in value]


def refused(cfg: Config) -> str | None:
    """Why a part from outside cannot be used, naming its key; None if all can."""
    from envs.sockets import SocketError

    for setting in outside(cfg):
        key, _, value = setting.partition("=")
        try:
            if key == "reward.version":
                import reward

                reward.check(reward.Terms.of(cfg.reward))
            elif key == "rl.algorithm":
                from learner.algorithm import algorithms

                algorithms.check(value, algorithms.aim(cfg.rl))
            else:
                from envs.benchmarks import sources

                sources.check(value, setting)
        except SocketError as error:
            return str(error)
    return None
