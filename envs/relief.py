"""Takes load off a machine whose memory is nearly used up, before Ray's monitor or the kernel ends a process of a run.

Invariants: what runs goes on, and nothing is lost: idle sandboxes are closed, and experiments run one at a time, until
there is room again; begins below the threshold at which Ray's monitor kills.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from envs import machine

log = logging.getLogger(__name__)

BELOW = 0.05
"""Share of the memory between where this begins and where Ray's monitor kills, and as much to where it ends."""
SECONDS = 2.0
"""Between looks."""
_lean: set[int] = set()


def active() -> bool:
    """Whether anything in this process is relieved now."""
    return bool(_lean)


def threshold() -> float:
    """Of the memory's use, where Ray's monitor kills; 0.95 unless its own variable says otherwise."""
    return float(os.environ.get("RAY_memory_usage_threshold", "0.95"))  # noqa: SIM112 (that is how Ray spells it)


class Relief:
    """Watches the memory of this machine, in a thread of its own."""

    def __init__(self, relieve: Callable[[bool], None], used: Callable[[], float] = machine.used_share) -> None:
        """relieve: begins (True) or ends (False) to do with less; used: the share of the memory that is."""
        self._relieve, self._used, self._ended = relieve, used, threading.Event()
        self._at = threshold() - BELOW
        threading.Thread(target=self._watch, name="memory", daemon=True).start()

    def _watch(self) -> None:
        while not self._ended.wait(SECONDS):
            self.look()

    def look(self) -> None:
        """Begin or end, where that is due."""
        used, mine = self._used(), id(self)
        if mine not in _lean and used > self._at:
            _lean.add(mine)
            log.warning("%.0f %% of the memory are used: no idle sandboxes, one experiment at a time", 100 * used)
            self._relieve(True)
        elif mine in _lean and used < self._at - BELOW:
            _lean.discard(mine)
            self._relieve(False)

    def close(self) -> None:
        self._ended.set()
        _lean.discard(id(self))
