"""An event loop whose time is virtual: hours of waiting pass at once, and alike on any machine."""

from __future__ import annotations

import asyncio


class VirtualTime(asyncio.SelectorEventLoop):
    """Time passes only by jumping to what is due next; where nothing is ready and nothing is due, everybody waits for
    ever, and that is an error."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready:
            due = [handle.when() for handle in self._scheduled if not handle.cancelled()]
            assert due, "everybody waits for ever"
            self.now = max(self.now, min(due))
        super()._run_once()
