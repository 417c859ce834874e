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
from actors.runtime.remote import place
from learner.ranks.handle import Learner
from learner.ranks.rank import Published
from learner.ranks.turns import Turns

BUCKET_BYTES = 64 << 20
COMPARED = 2
"""Versions of each kind, in full and as differences, from which on they are compared."""


class Publisher:
    """Between one learner and its actors, in the way that `learner.transfer` says."""

    def __init__(self, learner: Learner, actors: ActorPool, turns: Turns, say: Callable[[str], None]):
        self._learner, self._actors, self._turns, self._say = learner, actors, turns, say
        self._place = place(learner.cfg.run.mode)
        self.version = 0
        """That the actors serve."""
        self._published, self._seconds, self._restoring = Published([], 0, 0), 0.0, 0.0
        self._held: list[Any] = []
        """What was published, of a learner that may be away when it is asked for again, or end meanwhile."""
        self._first, self._told = True, False
        self._took: dict[bool, list[float]] = {True: [], False: []}
        """Seconds of versions that were sent as differences, and in full."""

    def publish(self) -> None:
        """The next version; returns when all actors serve it. Then it is the actors' turn."""
        self.version += 1
        started = time.monotonic()
        self._turns.learner()
        if self._learner.cfg.learner.transfer == "nccl":
            self._published = self._learner.broadcast(self.version, self._actors.receivers)
        else:
            self._published = self._learner.publish(BUCKET_BYTES, self.version)
        if self._learner.cfg.actors.colocate:
            self._held = self._place.get(self._published.buckets)  # not copied: Ray's store keeps what is looked at
        self._turns.actors()
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
        if self._learner.cfg.actors.colocate:  # the learner is away; what was published last was whole
            return [self._place.put(bucket) for bucket in self._held]
        return self._learner.publish(BUCKET_BYTES, self.version, full=True).buckets

    def figures(self) -> dict[str, float]:
        """Of the last version, for the journal: seconds until it was served, and of these to make and restore
        differences; megabytes sent, and their share of the weights."""
        sent, full = self._published.sent_bytes, self._published.full_bytes
        return {
            "publish_seconds": self._seconds, "publish_mb": sent / 1e6, "publish_share": sent / full,
            "publish_making_seconds": self._published.making_seconds, "publish_restoring_seconds": self._restoring,
        }  # fmt: skip
