"""Folders that live as long as their process: in the folder for temporary files, locked by who made them.

Invariant: what a process that was killed left there, control groups of the same name included, goes with `sweep`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from pathlib import Path

from envs.sandbox import cgroup
from envs.sandbox.disk import wipe

PREFIX = "mlagent-slot-"
YOUNG_SECONDS = 2.0
"""Age below which a folder that nobody has locked may be one that its maker is about to lock."""


class HeldFolder:
    """A new folder; `close` deletes it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = (self.path / "lock").open("w")  # held as long as this process lives
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def make(self, name: str) -> Path:
        """A folder in it that other users can enter."""
        folder = self.path / name
        folder.mkdir()
        folder.chmod(0o755)
        return folder

    def close(self) -> None:
        self._lock.close()
        _delete(self.path)


def sweep() -> None:
    """Delete what processes that were killed have left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (folder / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(lock.fileno()).st_mtime > YOUNG_SECONDS:
                cgroup.forget(folder.name)
                _delete(folder)


def _delete(folder: Path) -> None:
    with contextlib.suppress(OSError):  # what a dying experiment still writes stays behind
        wipe(folder)
        folder.rmdir()
