"""A control group around a sandbox: memory, processes and CPU of all its processes together.

Works as root with cgroup v1 (memory, pids and cpu mounted) or v2. Invariant: `close` ends every process in the group,
and removes it; where no group can be made, there is none, and the reason is told once.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

ROOT = Path("/sys/fs/cgroup")
V1 = ("memory", "pids", "cpu")
PERIOD_US = 100_000
END_SECONDS = 5.0


class Cgroup:
    """One group; `enter` is a command prefix that puts a program into it."""

    def __init__(self, name: str, memory_mb: int, cpus: float, processes: int | None):
        """processes: with threads; None leaves them unlimited.

        Raises:
            OSError: groups cannot be made here.
        """
        self.version = 2 if (ROOT / "cgroup.controllers").exists() else 1
        self._limit = math.inf
        most = "max" if processes is None else processes
        self.folders = [ROOT / name] if self.version == 2 else [ROOT / kind / name for kind in V1]
        try:
            if self.version == 2:
                (ROOT / "cgroup.subtree_control").write_text("+memory +pids +cpu")
            for folder in self.folders:
                if not (folder.parent / "cgroup.procs").exists():
                    raise OSError(f"{folder.parent} is no cgroup controller")
                folder.mkdir()
            self._write({"pids.max": most})
            self.limit(memory_mb, cpus)
        except OSError:
            self.close()
            raise

    def limit(self, memory_mb: int, cpus: float) -> None:
        """Let its processes have so much together from now on.

        Raises:
            OSError: they have more memory now.
        """
        memory, quota = memory_mb << 20, int(cpus * PERIOD_US)
        if self.version == 2:
            self._write({"memory.max": memory, "memory.swap.max": 0, "cpu.max": f"{quota} {PERIOD_US}"})
        else:
            ceilings = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
            growing = memory > self._limit  # the kernel wants the second never to be below the first
            self._write({file: memory for file in (reversed(ceilings) if growing else ceilings)})
            self._write({"cpu.cfs_period_us": PERIOD_US, "cpu.cfs_quota_us": quota})
        self._limit = memory

    def _write(self, values: Mapping[str, object]) -> None:
        for file, value in values.items():
            owner = next((folder for folder in self.folders if (folder / file).exists()), None)
            if owner:
                (owner / file).write_text(str(value))
            elif "swap" not in file and "memsw" not in file:  # without swap there is nothing to limit
                raise OSError(f"the kernel has no {file}")

    @property
    def memory(self) -> Path:
        """The folder with the memory controller's files."""
        return self.folders[0]

    def enter(self, command: Sequence[str]) -> list[str]:
        files = [str(folder / "cgroup.procs") for folder in self.folders]
        join = "".join(f"echo $$ > {file} && " for file in files)
        return ["/bin/sh", "-c", f'{join}exec "$@"', "sh", *command]

    def out_of_memory_kills(self) -> int:
        """How often the kernel has ended a process of the group for want of memory."""
        file = self.memory / ("memory.events" if self.version == 2 else "memory.oom_control")
        return int(dict(line.split() for line in file.read_text().splitlines()).get("oom_kill", 0))

    def room(self) -> int:
        """Bytes that its processes can still have; the kernel takes back caches of files where it must."""
        counts = dict(line.split() for line in (self.memory / "memory.stat").read_text().splitlines())
        return self._limit - int(counts["anon" if self.version == 2 else "rss"]) - int(counts["shmem"])

    def close(self) -> None:
        deadline = time.monotonic() + END_SECONDS
        for folder in self.folders:
            while folder.exists():
                with contextlib.suppress(OSError):
                    for pid in (folder / "cgroup.procs").read_text().split():
                        os.kill(int(pid), signal.SIGKILL)
                with contextlib.suppress(OSError):
                    folder.rmdir()
                    break
                if time.monotonic() > deadline:
                    log.warning("the control group %s is still in use and stays behind", folder)
                    break
                time.sleep(0.01)


def forget(name: str) -> None:
    """Remove the group of that name, which a killed process left behind empty."""
    for folder in (ROOT / name, *(ROOT / kind / name for kind in V1)):
        with contextlib.suppress(OSError):
            folder.rmdir()


def make(name: str, memory_mb: int, cpus: float, processes: int | None) -> Cgroup | None:
    """A new group; None where the host does not allow any."""
    try:
        return Cgroup(name, memory_mb, cpus, processes)
    except OSError as reason:
        _tell(f"{type(reason).__name__}: {reason}")
        return None


@functools.cache
def _tell(reason: str) -> None:
    log.warning("no control groups here (%s): memory is looked at instead, and CPU time is not limited", reason)
