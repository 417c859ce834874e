"""Gives memory that torch has freed back to the kernel.

A rank's environment (`actors.runtime.remote.KEPT_MEMORY`) has glibc keep all of it, since a step would fault a quarter
of its time otherwise. But rows differ in length, so that what one leaves free does not fit the next, and the process
grows by holes: to twice what it uses. Invariant: what is in use stays where it is.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

KEPT_BYTES = 1 << 30
"""What is free below that stays with the process."""
EVERY_SECONDS = 60.0
"""At most so often: the pages are faulted in again, in a second or a few."""
_LIBC = ctypes.CDLL(None)


class _Info(ctypes.Structure):
    """`struct mallinfo2` of glibc 2.33 and later."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
        )
    ]  # fmt: skip


def freed_bytes() -> int:
    """What is free and not given back, as far as it is known; pages that were never touched are among it."""
    if not hasattr(_LIBC, "mallinfo2"):
        return 0
    _LIBC.mallinfo2.restype = _Info
    return _LIBC.mallinfo2().fordblks


class Heap:
    """Of this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._since = clock, clock()

    def give_back(self, now: bool = False) -> bool:
        """Give all that is free to the kernel, where it is much and was not done lately, or `now`; whether it was."""
        lately = self._clock() - self._since < EVERY_SECONDS
        if (not now and (lately or freed_bytes() < KEPT_BYTES)) or not hasattr(_LIBC, "malloc_trim"):
            return False
        _LIBC.malloc_trim(0)
        self._since = self._clock()
        return True
