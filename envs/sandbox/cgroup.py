"""A control group around a sandbox: memory, processes and CPU of all its processes together.

Works with cgroup v1 (memory, pids and cpu mounted) or v2: as root, and as an ordinary user where the groups that this
process is in have been given to the user (`systemd-run --user --scope -p Delegate=yes COMMAND`, which marks them; a
container whose groups can be written). Of v2, only a group without processes may limit those below it: so all that are
in ours are moved into one below. Invariant: `close` ends every process in the group, and removes it; where no group can
be made, there is none.
"""

from __future__ import annotations

import contextlib
import errno
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
OWN = Path("/proc/self/cgroup")
V1 = ("memory", "pids", "cpu")
CONTROLLERS = "+memory +pids +cpu"
OURS = "mlagent"
"""Of v2: the group below the user's own into which whatever was in that is moved."""
DELEGATED = "user.delegate"
MOVES = 100
"""Most looks for processes to move: new ones come meanwhile."""
PERIOD_US = 100_000
END_SECONDS = 5.0


class Cgroup:
    """One group; `enter` is a command prefix that puts a program into it."""

    def __init__(self, name: str, memory_mb: int, cpus: float, processes: int | None):
        """processes: with threads; None leaves them unlimited.

        Raises:
            OSError: groups cannot be made here.
        """
        self.version = _version()
        self._limit = math.inf
        most = "max" if processes is None else processes
        self.folders = [parent / name for parent in _parents()]
        try:
            if self.version == 2:
                _enable(self.folders[0].parent)
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
    with contextlib.suppress(OSError):
        for parent in _parents():
            with contextlib.suppress(OSError):
                (parent / name).rmdir()


def make(name: str, memory_mb: int, cpus: float, processes: int | None) -> Cgroup | None:
    """A new group; None where the host does not allow any: as root the reason is told once, and an ordinary user
    expects none."""
    try:
        if os.getuid() and not all(map(_given, _parents())):
            return None
        return Cgroup(name, memory_mb, cpus, processes)
    except OSError as reason:
        _tell(f"{type(reason).__name__}: {reason}")
        return None


def _version() -> int:
    return 2 if (ROOT / "cgroup.controllers").exists() else 1


def _parents() -> list[Path]:
    """Below which groups are made, one of each controller: all, or those that this process is in.

    Raises:
        OSError: the kernel does not say which these are.
    """
    kinds = [""] if _version() == 2 else V1
    if os.getuid() == 0:
        return [ROOT / kind for kind in kinds]
    lines = (line.split(":", 2) for line in OWN.read_text().splitlines())
    own = {kind: path.lstrip("/") for _, of, path in lines for kind in of.split(",")}
    found = [ROOT / kind / own.get(kind, "") for kind in kinds]
    return [folder.parent if folder.name == OURS else folder for folder in found]


def _given(group: Path) -> bool:
    """Whether an ordinary user may make groups there, and systemd, which otherwise keeps its own in order, lets be."""
    if not os.access(group, os.W_OK):
        return False
    try:
        return _version() == 1 or group == ROOT or os.getxattr(group, DELEGATED) == b"1"
    except OSError:  # it has no such mark
        return False


def _enable(group: Path) -> None:
    """Have the controllers limit what is below the group. Raises OSError."""
    for _ in range(MOVES):
        try:
            (group / "cgroup.subtree_control").write_text(CONTROLLERS)
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        (group / OURS).mkdir(exist_ok=True)
        for process in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (group / OURS / "cgroup.procs").write_text(process)
    raise OSError(f"the processes in {group} do not move")


@functools.cache
def _tell(reason: str) -> None:
    log.warning("no control groups here (%s): memory is looked at instead, and CPU time is not limited", reason)
