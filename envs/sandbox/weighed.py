"""A bound on gVisor's memory where no control group can be had: the host looks, and ends the sandbox.

What experiments have there, in processes, files and shared memory, lies in one file in memory that gVisor's kernel
holds; its own memory, buffers of pipes and sockets included, is that of its processes. Invariants: a look comes before
what is left could be filled; what is over the limit is killed at once, and counts as a kill for want of memory. It is
asked as a `cgroup.Cgroup` is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import psutil

from envs.sandbox import memory

FILE = "/memfd:runsc-memory"


class Weighed:
    """The processes below one, `follow`ed."""

    def __init__(self, memory_mb: int):
        """memory_mb: of all its processes together, gVisor's own among them."""
        self._limit, self._kills = memory_mb << 20, 0
        self._process: psutil.Process | None = None
        self._below: list[psutil.Process] = []
        self._file = ""

    def enter(self, command: Sequence[str]) -> list[str]:
        return list(command)

    def follow(self, pid: int) -> None:
        self._process = psutil.Process(pid)

    def limit(self, memory_mb: int, cpus: float) -> None:
        """Let them have so much together from now on; CPU time is not limited."""
        self._limit = memory_mb << 20

    def look(self) -> float:
        """End them if they have more than the limit; seconds until the next look."""
        room = self.room()
        if room < 0:
            self._kills += 1
            for process in self._below:
                if process.is_running():
                    process.kill()
        least, most = memory.LOOK_SECONDS
        return min(most, max(least, room / (memory.FILL_BYTES * (os.cpu_count() or 1))))

    def out_of_memory_kills(self) -> int:
        return self._kills

    def room(self) -> int:
        """Bytes that they can still have."""
        if not self._file:
            self._find()
        try:
            held = os.stat(self._file).st_blocks * 512 if self._file else 0
        except OSError:  # the sandbox has ended
            held = 0
        return self._limit - held - sum(memory.anonymous(_status(process.pid)) for process in self._below)

    def _find(self) -> None:
        """gVisor's kernel, and the file, once it has started."""
        try:
            below = [self._process, *self._process.children(recursive=True)] if self._process else []
        except psutil.Error:
            return
        for process in below:
            folder = f"/proc/{process.pid}/fd"
            try:
                files = {name: os.readlink(f"{folder}/{name}") for name in os.listdir(folder)}
            except OSError:  # it is ending, or opens and closes files
                continue
            for name, target in files.items():
                if target.startswith(FILE):
                    self._file, self._below = f"{folder}/{name}", below
                    return

    def close(self) -> None:
        """Nothing is left of it but its processes, which whoever started them ends."""


def _status(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/status").read_bytes()
    except OSError:  # it has ended
        return b""
