"""What an actor does and has just done, in `<run>/acting/ACTOR.json`, for whoever watches the run: transitions are on
disk only once they are trained.

Invariants: a thread of its own tells it, so that no action waits for a disk, and one that is slow or full costs nothing
but the view; a file is complete, holds a few short records whatever is in flight, and is deleted when its actor closes;
as long as that lives it is written again at least every `HEARTBEAT` seconds, so that an older one is of one that was
killed.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from envs.records import StepResult

FOLDER = "acting"
FEW = 8
"""Records of each kind that an actor tells, of whatever many."""
TEXT, LOG = 3000, 1000
"""Characters that are told of a response, its beginning, and of a log, its end."""
INTERVAL = 1.0
"""Seconds between looks at whether there is something new to tell."""
HEARTBEAT = 10.0
"""Seconds after which a file is written again though there is nothing new."""
CLOSE_SECONDS = 5.0
PROPOSAL, EXPERIMENT = "proposal", "experiment"


@dataclass(frozen=True)
class Doing:
    """An action that has no result yet; Unix times."""

    id: str
    task: str
    part: str
    """PROPOSAL, while it is thought of, or EXPERIMENT, its turn waited for included."""
    began: float
    since: float
    """Of the part."""


@dataclass(frozen=True)
class Tried:
    """An action, and what came of it."""

    id: str
    task: str
    text: str
    action: str
    outcome: str
    reward: float | None
    """None of an expert's, which has none."""
    before: float | None
    after: float | None
    log: str
    ended: float
    """Unix time."""


@dataclass(frozen=True)
class Said:
    """What one actor says."""

    actor: str
    written: float
    """Unix time."""
    doing: tuple[Doing, ...]
    """Those begun first, of which a learner that waits may wait for one."""
    tried: tuple[Tried, ...]
    """The last, the newest last."""


class Acts:
    """What one actor tells; called from any thread. Nothing is written before its first action."""

    def __init__(self, actor: str, run_dir: Path):
        self._actor, self._file = actor, Path(run_dir) / FOLDER / f"{actor}.json"
        self._doing: dict[int, Doing] = {}
        self._numbers = itertools.count()
        self._tried: collections.deque[Tried] = collections.deque(maxlen=FEW)
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._writer: threading.Thread | None = None
        self._news = False

    @contextlib.contextmanager
    def doing(self, name: str, task: str) -> Iterator[Callable[[], None]]:
        """Within, that action is thought of, and its experiment is on its way once what it gives is called."""
        number, now = next(self._numbers), time.time()  # a group that is tried again has the names of before
        doing = Doing(name, task, PROPOSAL, now, now)
        self._set(number, doing)
        try:
            yield lambda: self._set(number, replace(doing, part=EXPERIMENT, since=time.time()))
        finally:
            with self._lock:
                del self._doing[number]
                self._news = True

    def tried(self, name: str, task: str, text: str, result: StepResult, reward: float | None) -> None:
        said, log = _plain(text[:TEXT]), _plain(result.log_tail[-LOG:])
        came_of_it = str(result.outcome), reward, result.score_before, result.score_after
        told = Tried(name, task, said, result.action, *came_of_it, log, time.time())
        with self._lock:
            self._tried.append(told)
            self._news = True

    def close(self) -> None:
        """Tell nothing more, and take back what was told."""
        self._closed.set()
        if self._writer:
            self._writer.join(CLOSE_SECONDS)

    def _set(self, number: int, doing: Doing) -> None:
        with self._lock:
            self._doing[number] = doing
            self._news = True
            if self._writer is None:
                self._writer = threading.Thread(target=self._keep_writing, name="acting-writer", daemon=True)
                self._writer.start()

    def _keep_writing(self) -> None:
        written = 0.0
        while not self._closed.wait(INTERVAL):
            if self._news or time.time() - written > HEARTBEAT:
                written = time.time()
                with contextlib.suppress(OSError):  # it is told with the next news, if there is room by then
                    self._write(written)
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
            self._file.parent.rmdir()  # by the last

    def _write(self, now: float) -> None:
        with self._lock:
            self._news = False
            first = tuple(itertools.islice(self._doing.values(), FEW))  # in the order in which they began
            said = Said(self._actor, now, first, tuple(self._tried))
        self._file.parent.mkdir(exist_ok=True)
        partial = self._file.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(said))
        partial.replace(self._file)


def _plain(text: str) -> str:
    """What can be written: an endpoint may send half of a surrogate pair."""
    return text.encode(errors="replace").decode()
