"""The process of a learner rank, as those see it who start and call it.

Invariant: torch, DeepSpeed and Transformers are imported in that process alone; a driver has no use for what takes ten
seconds and half a GB.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from actors.runtime.imports import quick
from learner.config.schema import Config


@dataclass
class Published:
    """A version of the weights on its way to the actors."""

    buckets: list[Any]
    """References to each `Bucket` or `Delta`."""
    sent_bytes: int
    full_bytes: int
    making_seconds: float = 0.0
    """That the differences took which are sent in the place of buckets; 0 where all is sent in full."""


class LearnerRank:
    """Lives in a process of its own, and does what its `learner.ranks.trainer.Trainer` does."""

    def __init__(self, cfg: Config, model_dir: Path, rank: int) -> None:
        with quick():
            from learner.ranks.trainer import Trainer

        self._trainer = Trainer(cfg, model_dir, rank)
        self._name = f"learner rank {rank} of {cfg.learner.ranks}"

    def __repr__(self) -> str:  # Ray's dashboard shows it
        return self._name

    def address(self) -> tuple[str, int]:
        """This host and a free port on it, for the process group."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]


def _of_trainer(name: str) -> Callable[..., Any]:
    def call(self: LearnerRank, *args: Any) -> Any:
        return getattr(self._trainer, name)(*args)

    call.__name__ = name
    return call


for _name in (
    "join", "load", "finetune_step", "loss", "hold_proximal", "policy_step", "reset_optimizer", "rest", "wake",
    "publish", "broadcast", "save", "begin_save", "write_model", "writing", "finish_write", "export", "keep_reference",
    "hold_reference",
):  # fmt: skip
    setattr(LearnerRank, _name, _of_trainer(_name))
