"""TensorBoard files with the figures of a run's learner steps.

tensorboardX's `SummaryWriter` passes events to a thread through a bounded queue: once that thread has met a full disk,
whoever adds one waits for ever. Invariants: a step is on disk when `add` returns, and a reader forgets the steps that
are done again; what cannot be written costs these figures, not the run.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorboardX.event_file_writer import EventsWriter

log = logging.getLogger(__name__)


class Board:
    """One process's files in a folder: a new one after each failure, since the end of the last may be half a record."""

    def __init__(self, folder: Path):
        self._folder, self._numbers = folder, itertools.count()
        self._file: EventsWriter | None = None

    def add(self, figures: Mapping[str, float], step: int) -> None:
        """The figures of a learner step, by name."""
        from tensorboardX.proto.summary_pb2 import Summary

        self._write(step, summary=Summary(value=[Summary.Value(tag=n, simple_value=f) for n, f in figures.items()]))

    def again_from(self, step: int) -> None:
        """This step and those after it are done again: a reader forgets what it has read of them."""
        from tensorboardX.proto.event_pb2 import SessionLog

        self._write(step, session_log=SessionLog(status=SessionLog.START))

    def close(self) -> None:
        if self._file:
            with contextlib.suppress(OSError):  # of a full disk, which was said when a step did not fit
                self._file.close()
            self._file = None

    def _write(self, step: int, **what: object) -> None:
        from tensorboardX.proto.event_pb2 import Event

        try:
            file = self._file = self._file or self._opened()
            file.write_event(Event(wall_time=time.time(), step=step, **what))
            file.flush()
        except OSError as error:
            log.warning("step %s is not in %s: %s", step, self._folder, error)
            self.close()

    def _opened(self) -> EventsWriter:
        from tensorboardX.event_file_writer import EventsWriter  # it imports torch, which readers of a run do not need

        self._folder.mkdir(exist_ok=True)
        return EventsWriter(str(self._folder / "events"), f".{os.getpid()}.{next(self._numbers)}")
