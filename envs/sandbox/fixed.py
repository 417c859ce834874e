"""Runs inside a sandbox, beside the runner: a folder that is to stay as it is, though an experiment's user may own it.

/dev is one by a rootless Docker Engine and in rootless gVisor, as are /tmp and /dev/shm. Invariant: an experiment that
has changed anything of it, times and attributes included, is followed by one that finds nothing of that; where that
cannot be, `settle` says so. Standard library only.
"""

import contextlib
import os
import stat

from envs.sandbox import disk


class Fixed:
    """One such folder, but for the folders in it."""

    def __init__(self, folder: str) -> None:
        self._folder, self._mode = folder, stat.S_IMODE(os.stat(folder).st_mode)
        with os.scandir(folder) as entries:
            there = list(entries)
        self._names = {entry.name for entry in there}
        self._links = {entry.path: os.readlink(entry.path) for entry in there if entry.is_symlink()}
        self._nodes = [entry.path for entry in there if not (entry.is_symlink() or entry.is_dir())]
        self._as_it_was, self._nodes_as_they_were = self._look(), changes_of(self._nodes)

    def _look(self) -> "list[int]":
        return changes_of([self._folder, *self._links])

    def changed(self) -> bool:
        return self._look() != self._as_it_was

    def restore(self) -> None:
        """Have it be what it was, but for devices, which nobody here can make. Names are read."""
        if stat.S_IMODE(os.stat(self._folder).st_mode) != self._mode:
            os.chmod(self._folder, self._mode)
        with os.scandir(self._folder) as entries:
            unknown = [entry.path for entry in entries if entry.name not in self._names]
        for path in (*unknown, *self._links):
            if os.path.isdir(path) and not os.path.islink(path):
                os.chmod(path, 0o700)
                disk.wipe(path)
                os.rmdir(path)
            elif os.path.lexists(path):
                os.unlink(path)
        for path, target in self._links.items():
            os.symlink(target, path)
        with contextlib.suppress(OSError):  # a file system without
            for name in os.listxattr(self._folder):
                os.removexattr(self._folder, name)
        os.utime(self._folder)

    def settle(self) -> bool:
        """Take it for what it was from now on; whether it can be."""
        self._as_it_was = self._look()
        return changes_of(self._nodes) == self._nodes_as_they_were


def changes_of(paths: "list[str]") -> "list[int]":
    """When each was last changed in any way, which nobody can set; 0 where it is gone."""
    times = []
    for path in paths:
        try:
            times.append(os.lstat(path).st_ctime_ns)
        except FileNotFoundError:
            times.append(0)
    return times
