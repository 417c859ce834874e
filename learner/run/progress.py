"""The progress of a run: shown by the driver, and followed by other processes through `<run>/status.json`.

On a terminal it is a live panel under the log; elsewhere plain lines, one per stage and learner step. Invariants:
progress never ends a run (a status that cannot be written is said once and skipped); while the driver lives the file
is rewritten at least every `HEARTBEAT` seconds and at most twice a second, however often it is told something; the log
of a run has all that was said, a terminal's panel as lines, and how it ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from learner.figures.text import duration
from learner.run import panel
from learner.run import status as statuses
from learner.run.status import Stage, State, Status

INTERVAL = 0.5
"""Seconds between looks at whether the file has to be written."""
HEARTBEAT = 5.0
"""Seconds after which the file is written although nothing changed."""
LINE_SECONDS = 10.0
"""Plain lines within a stage come no faster, except one per learner step."""
MESSAGES = 3
WIDTH = 120
"""Columns of a log."""


class Progress:
    """Context manager of the driver; called from one thread."""

    def __init__(self, run_dir: Path, console: Console | None = None, logs: Path | None = None):
        """logs: existing folder of its `log.txt`, by default the run's."""
        self._file = Path(run_dir) / "status.json"
        self._console = console or _console()
        self._log = Console(file=(Path(logs or run_dir) / "log.txt").open("a"), width=WIDTH, force_terminal=False)
        self._status = Status(run=self._file.parent.name, started=time.time())
        self._live = Live(get_renderable=self._panel, console=self._console, refresh_per_second=4)
        self._last_line = self._written_at = time.monotonic()  # whose clock nobody sets
        self._written = self._status
        self._unwritable = False
        self._closed = threading.Event()
        self._writer = threading.Thread(target=self._keep_writing, name="status-writer", daemon=True)

    def __enter__(self) -> Progress:
        self._log_too(Text(f"{time.strftime('%Y-%m-%d %H:%M:%S %z')} $ {shlex.join(sys.argv)}"))
        self._write()
        self._writer.start()
        if self._console.is_terminal:
            self._live.start(refresh=True)
        return self

    def __exit__(self, _: Any, error: BaseException | None, *__: Any) -> None:
        self._end_stage()
        result, reason = statuses.end(error)
        self._closed.set()
        self._writer.join()
        self._set(result=result, reason=reason)
        lasted = duration(time.time() - self._status.started)
        self._log_too(Text(f"[{lasted}] {': '.join(filter(None, [result, reason]))}"))
        with contextlib.suppress(OSError):
            self._log.file.close()
        self._write()
        if self._console.is_terminal:
            self._live.stop()

    def ready(self) -> None:
        """All that the run needs is there: it is running."""
        self._set(result=State.RUNNING)

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """Begin a stage of `total` steps (0: unknown), `done` of which an earlier process did; ends the one before."""
        self._end_stage()
        stage = Stage(name, started=time.time(), total=total, first=done, done=done)
        self._set(stages=(*self._status.stages, stage), figures={}, tokens_per_s=None, doing="")
        self._line()

    def advance(self, n: int = 1, total: int | None = None, **fields: Any) -> None:
        """`n` more steps of the stage are done, of `total` where that is known only now; `fields` as for `update`."""
        *before, stage = self._status.stages
        stage = dataclasses.replace(stage, done=stage.done + n, total=stage.total if total is None else total)
        self._set(stages=(*before, stage))
        self.update(**fields)
        finished = stage.done == stage.total
        learner_step = "reward_mean" in fields
        if learner_step or finished or time.monotonic() - self._last_line > LINE_SECONDS:
            self._line(learner_step)

    def update(self, **fields: Any) -> None:
        """Set fields of `Status`; `reward_mean` is added to its rewards, `held_out` to its points, other numbers to its
        figures.

        A row of the journal can be passed as it is.
        """
        if (point := fields.pop("held_out", None)) and point["reward"] is not None:
            self._set(held_out=(*self._status.held_out, statuses.point(point)))
        known = {name: value for name, value in fields.items() if name in _FIELDS}
        reward = fields.get("reward_mean")
        numbers = {n: float(v) for n, v in fields.items() if n not in _FIELDS and isinstance(v, float | int)}
        self._set(
            **known,
            rewards=(*self._status.rewards, reward) if reward is not None else self._status.rewards,
            figures={**self._status.figures, **numbers},
        )

    def doing(self, what: str) -> None:
        """Say what the learner does from now on."""
        self._set(doing=what, doing_since=time.time())

    def say(self, text: str) -> None:
        """Tell the user something that stays in the log."""
        self._set(messages=(*self._status.messages, text)[-MESSAGES:])
        self._say(text)

    def show(self, renderable: RenderableType) -> None:
        """Print a table or another rich renderable into the log."""
        self._print(renderable, soft_wrap=False)

    def _set(self, **changes: Any) -> None:
        self._status = dataclasses.replace(self._status, **changes)

    def _end_stage(self) -> None:
        if self._status.stages:
            *before, stage = self._status.stages
            self._set(stages=(*before, dataclasses.replace(stage, ended=time.time())))

    def _panel(self) -> RenderableType:
        now = time.time()
        return panel.panel(dataclasses.replace(self._status, written=now), now)

    def _line(self, learner_step: bool = False) -> None:
        self._last_line = time.monotonic()
        line = Text(panel.line(self._status, time.time(), learner_step))
        if self._console.is_terminal:
            self._log_too(line)
        else:
            self._print(line, soft_wrap=True)

    def _say(self, text: str) -> None:
        self._print(Text(text), soft_wrap=not self._console.is_terminal)  # which would break words

    def _print(self, what: RenderableType, soft_wrap: bool) -> None:
        with contextlib.suppress(OSError):  # of a disk that is full, which what is shown goes to
            self._console.print(what, soft_wrap=soft_wrap)
        self._log_too(what)

    def _log_too(self, what: RenderableType) -> None:
        with contextlib.suppress(OSError, ValueError):  # the disk is full, or was when the file was to be closed
            self._log.print(what, soft_wrap=isinstance(what, Text))
            self._log.file.flush()

    def _keep_writing(self) -> None:
        while not self._closed.wait(INTERVAL):
            if self._status is not self._written or time.monotonic() - self._written_at > HEARTBEAT:
                self._write()

    def _write(self) -> None:
        self._written, self._written_at = self._status, time.monotonic()
        try:
            statuses.write(self._file, dataclasses.replace(self._status, written=time.time()))
        except OSError as error:
            if not self._unwritable:
                self._unwritable = True
                self._say(f"the progress view of other processes stops: {error}")


_FIELDS = {field.name for field in dataclasses.fields(Status)}


def follow(
    run_dir: Path, stop: Callable[[], bool], lines: Iterable[str] | None = None, console: Console | None = None
) -> None:
    """Show the progress of a run that another process drives, until `stop()`.

    lines: the log of that process, shown above the panel; `stop` is asked after the last line, and after each one.
    Without a terminal the lines alone are printed, since the driver writes its progress there too.
    """
    console = console or _console()
    watched = _Watched(Path(run_dir) / "status.json")
    view = Live(get_renderable=lambda: watched.panel(0 if lines else MESSAGES), console=console, refresh_per_second=4)
    with view if console.is_terminal else contextlib.nullcontext():
        for text in lines or ():
            console.print(Text.from_ansi(text.rstrip("\n")), soft_wrap=not console.is_terminal)
            if stop():
                return
        while not stop():
            time.sleep(INTERVAL)


class _Watched:
    """A status file of which an earlier run's content is not shown."""

    def __init__(self, file: Path):
        self._file = file
        self._old = self._mtime()

    def _mtime(self) -> int | None:
        return self._file.stat().st_mtime_ns if self._file.exists() else None

    def panel(self, messages: int) -> RenderableType:
        with contextlib.suppress(FileNotFoundError):  # a run that starts moves an earlier one aside
            if self._mtime() not in (None, self._old):
                return panel.panel(statuses.read(self._file), time.time(), messages)
        return Text(f"waiting for {self._file.parent.name} to start …", style="dim")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads on, as where it is piped into `head`; rich would end the process."""
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()


def _console() -> Console:
    """The terminal; a log file is given a width that tables fit in, at most that of who shows it (COLUMNS)."""
    console = _Console()
    shown = os.environ.get("COLUMNS", "")
    return console if console.is_terminal else _Console(width=min(WIDTH, int(shown)) if shown.isdecimal() else WIDTH)
