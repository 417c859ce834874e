"""What keys that are left open become, from the others: what a device does well depends on the device.

Invariant: afterwards no key is open, so that nobody else has to know which could be.
"""

from __future__ import annotations

from learner.config.rules import share_a_card
from learner.config.schema import Config

SEQUENCES = {"cpu": 64, "gpu": 256}
ROW_TOKENS = {"cpu": 2048, "gpu": 8192}
"""A GPU is kept busy by long rows; a CPU is busy anyway, and long rows take more memory."""


def settle(cfg: Config) -> None:
    """Set `actors.sequences`, `learner.row_tokens` and `learner.transfer` where they are open."""
    learner, actors = cfg.learner, cfg.actors
    actors.sequences = actors.sequences or SEQUENCES["gpu" if actors.gpus else "cpu"]
    learner.row_tokens = learner.row_tokens or max(ROW_TOKENS["gpu" if learner.gpus else "cpu"], cfg.model.context)
    if learner.transfer == "auto":
        learner.transfer = "ipc" if share_a_card(cfg) and not actors.colocate else "object_store"
