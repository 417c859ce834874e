"""Whose turn it is with a card that learner and engine have one after the other, whole (`actors.colocate`).

The other's tensors wait in the memory of the host meanwhile. Invariant: a side is asked for what needs the card in its
own turn only. Where each has memory of its own, it is always everybody's turn.
"""

from __future__ import annotations

import time

from actors.pool import ActorPool
from learner.ranks.handle import Learner


class Turns:
    """Between a learner that has just started, and actors that have not."""

    def __init__(self, learner: Learner, actors: ActorPool):
        self._learner, self._actors = learner, actors
        self._taken = learner.cfg.actors.colocate
        self._learns = True
        self._spent = 0.0

    def learner(self) -> None:
        """It is the learner's turn; engines hold requests in flight, and compute them again when they wake.

        Raises:
            ActorError, LearnerError: a side does not give up the card, or take it.
        """
        if self._taken and not self._learns:
            self._change(self._actors, self._learner)

    def actors(self) -> None:
        """It is the actors' turn. Raises as `learner`."""
        if self._taken and self._learns:
            self._change(self._learner, self._actors)

    def _change(self, gives: Learner | ActorPool, takes: Learner | ActorPool) -> None:
        began = time.monotonic()
        gives.rest()
        takes.wake()
        self._learns = takes is self._learner
        self._spent += time.monotonic() - began

    def figures(self) -> dict[str, float]:
        """For the journal: seconds that changes took since this was asked last; nothing where nobody waits."""
        if not self._taken:
            return {}
        spent, self._spent = self._spent, 0.0
        return {"turn_seconds": spent}
