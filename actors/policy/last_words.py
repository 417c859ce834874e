"""What an engine's processes said last, so that an error can tell why one did not start or died.

vLLM tells the cause in its processes' standard error only, which on a cluster is a file of Ray's on another machine.
Invariants: everything is also passed on to where it would have gone; a process, which has one standard error, hears one
engine start at a time.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import threading
from collections.abc import Iterator

KEPT_LINES = 200
_standard_error = threading.Lock()
PREFIX = re.compile(r"^(?:\([^)]*pid=\d+\) ?)?(?:(?:ERROR|CRITICAL|WARNING|INFO) \d\d-\d\d [\d:]+ \[[^\]]+\] ?)?")
"""Of a line of vLLM's log: process, level, time and place."""
CAUSE = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|OutOfMemory)\b.*: \S")
"""Last line of a traceback."""


class LastWords:
    """Keeps the last lines that processes write which are started within `heard`."""

    def __init__(self) -> None:
        self._lines: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Processes started meanwhile write through here, for as long as they live. Waits for others' starts."""
        with _standard_error:
            real = os.dup(2)
            reading, writing = os.pipe()
            os.dup2(writing, 2)
            os.close(writing)
            threading.Thread(target=self._pass_on, args=(reading, real), daemon=True).start()
            try:
                yield
            finally:
                os.dup2(real, 2)

    def _pass_on(self, reading: int, real: int) -> None:
        """Ends, and closes both, when the last process that writes has ended."""
        with os.fdopen(reading, "rb") as lines:
            for line in lines:
                with contextlib.suppress(OSError):  # nobody hears it any more
                    os.write(real, line)
                self._lines.append(line.decode(errors="replace").rstrip())
        os.close(real)

    def cause(self) -> str:
        """The last exception that they told; empty where they told none."""
        lines = [PREFIX.sub("", line) for line in self._lines]
        causes = [line for line in lines if CAUSE.match(line) and "See root cause above" not in line]
        return causes[-1] if causes else ""
