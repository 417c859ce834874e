"""Gives each version of the learner's weights to the actors.

Invariants: weight version = learner steps + 1; version 0 is the model as given, 1 the fine-tuned one. Where differences
take longer than they save, the user is told once, by what both ways took in this run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from actors.pool import ActorPool
from learner.ranks.handle import Learner
from learner.ranks.rank import Published

BUCKET_BYTES = 64 << 20
COMPARED = 2
"""Versions of each kind, in full and as differences, from which on they are compared."""


class Publisher:
    """Between one learner and its actors, in the way that `learner.transfer` says."""

    def __init__(self, learner: Learner, actors: ActorPool, say: Callable[[str], None]):
        self._learner, self._actors, self._say = learner, actors, say
        self.version = 0
        """That the actors serve."""
        self._published, self._seconds, self._restoring = Published([], 0, 0), 0.0, 0.0
        self._first, self._told = True, False
        self._took: dict[bool, list[float]] = {True: [], False: []}
        """Seconds of versions that were sent as differences, and in full."""

    def publish(self) -> None:
        """The next version; returns when all actors serve it."""
        self.version += 1
        started = time.monotonic()
        if self._learner.cfg.learner.transfer == "nccl":
            self._published = self._learner.broadcast(self.version, self._actors.receivers)
        else:
            self._published = self._learner.publish(BUCKET_BYTES, self.version)
        self._restoring = self._actors.publish(self.version, self._published.buckets)
        self._seconds = time.monotonic() - started
        self._compare()

    def _compare(self) -> None:
        """Say so, once, where differences take longer than full weights."""
        if self._first:  # it touches fresh memory everywhere, which takes longer than all the rest
            self._first = False
            return
        self._took[self._published.making_seconds > 0].append(self._seconds)
        if self._told or min(map(len, self._took.values())) < COMPARED:
            return
        differences, full = (statistics.median(self._took[kind]) for kind in (True, False))
        if self._published.making_seconds and differences > full:
            self._told = True
            self._say(
                f"weights are served {differences:.2f} s after a step where they travel as differences "
                f"({self._published.making_seconds:.2f} s to make them, {self._restoring:.2f} s to restore them), "
                f"{full:.2f} s where they travel in full: learner.full_every=1 is faster here"
            )

    def full_weights(self) -> list[Any]:
        """For an actor that joins between two versions."""
        return self._learner.publish(BUCKET_BYTES, self.version, full=True).buckets

    def figures(self) -> dict[str, float]:
        """Of the last version, for the journal: seconds until it was served, and of these to make and restore
        differences; megabytes sent, and their share of the weights."""
        sent, full = self._published.sent_bytes, self._published.full_bytes
        return {
            "publish_seconds": self._seconds, "publish_mb": sent / 1e6, "publish_share": sent / full,
            "publish_making_seconds": self._published.making_seconds, "publish_restoring_seconds": self._restoring,
        }  # fmt: skip
