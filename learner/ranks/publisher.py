"""Gives each version of the learner's weights to the actors.

Invariant: weight version = learner steps + 1; version 0 is the model as given, 1 the fine-tuned one.
"""

from __future__ import annotations

import time
from typing import Any

from actors.pool import ActorPool
from learner.ranks.handle import Learner
from learner.ranks.rank import Published

BUCKET_BYTES = 64 << 20


class Publisher:
    """Between one learner and its actors, in the way that `learner.transfer` says."""

    def __init__(self, learner: Learner, actors: ActorPool):
        self._learner, self._actors = learner, actors
        self.version = 0
        """That the actors serve."""
        self._published, self._seconds = Published([], 0, 0), 0.0

    def publish(self) -> None:
        """The next version; returns when all actors serve it."""
        self.version += 1
        started = time.monotonic()
        if self._learner.cfg.learner.transfer == "nccl":
            self._published = self._learner.broadcast(self.version, self._actors.receivers)
        else:
            self._published = self._learner.publish(BUCKET_BYTES, self.version)
        self._actors.publish(self.version, self._published.buckets)
        self._seconds = time.monotonic() - started

    def full_weights(self) -> list[Any]:
        """For an actor that joins between two versions."""
        return self._learner.publish(BUCKET_BYTES, self.version, full=True).buckets

    def figures(self) -> dict[str, float]:
        """Of the last version, for the journal."""
        sent, full = self._published.sent_bytes, self._published.full_bytes
        return {"publish_seconds": self._seconds, "publish_mb": sent / 1e6, "publish_share": sent / full}
