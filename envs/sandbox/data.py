"""The data of tasks as sandboxes show them: one sandbox after the other task's, so that it can serve any.

A sandbox has one folder mounted read-only for its whole life, and is shown a task by hard links in it: no data is
copied, and what is shown costs a system call per file, once until another task is shown. Invariants: nothing but the
shown task is in the folder; data on another file system than the sandboxes are copied there once per pool, and said so.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from pathlib import Path

from envs.sandbox.disk import wipe
from envs.sandbox.folders import HeldFolder

log = logging.getLogger(__name__)


class TaskData:
    """What the sandboxes of a pool have of their tasks."""

    def __init__(self) -> None:
        self._folder: HeldFolder | None = None
        self._copies: dict[Path, Path] = {}
        self._lock = threading.Lock()

    def show(self, env_dir: Path, shown: Path) -> None:
        """Make `shown`, a folder that a sandbox has mounted, have what is in `env_dir`, and nothing else.

        Raises:
            OSError: it cannot be emptied or filled.
        """
        source = self._copies.get(env_dir, env_dir)
        wipe(shown)
        try:
            _link(source, shown)
        except OSError:  # another file system, somebody else's files, or too many links
            wipe(shown)
            _link(self._copy(env_dir), shown)

    def _copy(self, env_dir: Path) -> Path:
        with self._lock:
            if env_dir not in self._copies:
                log.warning(
                    "the data of %s cannot be linked into %s and are copied there once: a TMPDIR on the file system of "
                    "MLAGENT_CACHE saves that", env_dir, tempfile.gettempdir()
                )  # fmt: skip
                self._folder = self._folder or HeldFolder()
                copy = self._folder.path / str(len(self._copies))
                shutil.copytree(env_dir, copy, symlinks=True)
                self._copies[env_dir] = copy
            return self._copies[env_dir]

    def close(self) -> None:
        """Delete the copies."""
        if self._folder:
            self._folder.close()


def _link(source: Path, target: Path) -> None:
    """Hard links in `target` to the files below `source`, whose folders are made anew."""
    for entry in os.scandir(source):
        place = target / entry.name
        if entry.is_dir(follow_symlinks=False):
            place.mkdir()
            place.chmod(0o755)  # experiments run as another user
            _link(Path(entry.path), place)
        else:
            os.link(entry.path, place, follow_symlinks=False)
