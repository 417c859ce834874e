"""Runs inside a sandbox, in the runner: the memory of an experiment, all its processes together, where no control
group counts it.

Counted are anonymous memory (pages that several processes share once, as forks do), folders in memory, and what sockets
may hold. There is nothing else to have: `seccomp` refuses there what would be seen nowhere. Looks are cheap as long as
the sum of what each process has is within the limit, and come before what is left could be filled; beyond that the
processes halt, for milliseconds, while their shared pages are told apart. Nothing that a process calls itself is read
but into pages that no fork gets (`unforked`). Standard library only.
"""

import contextlib
import ctypes
import os
import re
import signal
import time

from envs.sandbox import unforked

FILL_BYTES = 4 << 30
"""A core fills less in a second."""
LOOK_SECONDS, LOOK_SHARE = (0.01, 0.2), 0.2
"""Least and most between looks, which take at most this share of the time."""
FAR_OVER = 1.25
"""Of the limit: what may be exceeded by so much is measured at once, though that was done a moment ago."""
INODE_BYTES, SOCKET_BYTES, FEW_SOCKETS, HUGE = 1 << 10, 256 << 10, 64, 2 << 20
KCMP = {"x86_64": 312, "aarch64": 272}
VM = 1
"""Of `kcmp`."""
ANONYMOUS = re.compile(rb"^(?:RssAnon|VmSwap):\s+(\d+)", re.MULTILINE)
PROPORTIONAL = re.compile(rb"^(?:Pss_Anon|SwapPss):\s+(\d+)", re.MULTILINE)
PARENT = re.compile(rb"^PPid:\s+(\d+)", re.MULTILINE)
SOCKETS = re.compile(rb"^sockets: used (\d+)", re.MULTILINE)
TCP_SOCKETS = re.compile(rb"^TCP6?: inuse (\d+)", re.MULTILINE)
MIN_FAULTS = re.compile(rb".*\) \S(?: \S+){6} (\d+)", re.DOTALL)
"""In /proc/PID/stat, behind the name."""
QUEUES = re.compile(rb"^ *\d+: \S+ \S+ \S+ (\w+):(\w+)", re.MULTILINE)
NEW_HUGE = re.compile(rb"^thp_(?:fault|collapse)_alloc (\d+)", re.MULTILINE)
LIBC = ctypes.CDLL(None)


class Over(Exception):
    """It has more than the limit."""


class Watch:
    """Of one experiment; `look` is to be called whenever `due` has come, by the monotonic clock, or more often."""

    def __init__(self, limit: int, processes: int, folders: "tuple[str, ...]"):
        """limit: bytes; folders: those in memory, empty now."""
        self._limit, self._folders = limit, folders
        self._fill = FILL_BYTES * min(processes, os.cpu_count() or 1)
        self._measured, self._again, self._faults, self._huge = 0, 0.0, {}, 0
        self._tcp, self._tcp_due = 0, 0.0
        self._pause(0, 0.0)

    def look(self) -> None:
        """Raises Over."""
        if time.monotonic() >= self.due and self.over():
            raise Over

    def over(self) -> bool:
        """Whether it has more than the limit."""
        began = time.monotonic()
        shown = {process: anonymous(read(process, "status")) for process in processes()}
        elsewhere = sum(map(in_folder, self._folders)) + self._in_sockets()
        used = elsewhere + sum(shown.values())
        took, exact = time.monotonic() - began, False
        if used > self._limit:
            used = elsewhere + self._measured + self._grown(shown)
            if used > self._limit and (time.monotonic() > self._again or used > FAR_OVER * self._limit):
                self._measure()
                used, exact = elsewhere + self._measured, True
        self._pause(used, took)
        return exact and used > self._limit

    def _in_sockets(self) -> int:
        """Bytes that they may hold, but for those of a few; of TCP's those that wait."""
        used, of_tcp = sockets_in_use()
        if time.monotonic() > self._tcp_due:
            self._tcp = in_tcp() if of_tcp else 0
            self._tcp_due = time.monotonic() + LOOK_SECONDS[1]
        return max(0, used - FEW_SOCKETS) * SOCKET_BYTES + self._tcp

    def _pause(self, used: int, took: float) -> None:
        least, most = LOOK_SECONDS
        self.due = time.monotonic() + max(least, took / LOOK_SHARE, min(most, (self._limit - used) / self._fill))

    def _grown(self, shown: "dict[str, int]") -> int:
        """Most bytes that can have come since the last measurement: a fault adds a page, or a huge page."""
        if not self._faults:
            return 2 * self._limit
        faults = 0
        for process in shown:
            now, before = faults_of(process), self._faults.get(process, 0)
            faults += now - before if now >= before else now  # it is another one with that number
        return faults * os.sysconf("SC_PAGESIZE") + (new_huge_pages() - self._huge) * HUGE

    def _measure(self) -> None:
        began = time.monotonic()
        halt = contextlib.suppress(ProcessLookupError)
        with halt:
            os.kill(-1, signal.SIGSTOP)
        try:
            now = processes()
            # Of the pages that it forked with, the runner has its share; what it lacks in it, others have.
            self._measured = proportional("self") - anonymous(read("self", "status"))
            self._measured += sum(proportional(process) for process in now if not borrows(process))
            self._faults, self._huge = {process: faults_of(process) for process in now}, new_huge_pages()
        finally:
            with halt:
                os.kill(-1, signal.SIGCONT)
        self._again = 2 * time.monotonic() - began


def processes() -> "list[str]":
    return [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def read(process: str, file: str) -> "memoryview | bytes":
    """The first of a file's pieces, which holds until the next is read; nothing of a process that has ended, or does
    not show it."""
    with contextlib.suppress(OSError):
        return next(unforked.read(f"/proc/{process}/{file}"), b"")
    return b""


def anonymous(status: "memoryview | bytes") -> int:
    """Bytes of a process, in memory or swapped out, whether or not others have them too."""
    return sum(map(int, ANONYMOUS.findall(status))) << 10


def proportional(process: str) -> int:
    """Bytes, of those that n processes have one n-th; all, of one that hides which they are."""
    found = PROPORTIONAL.findall(read(process, "smaps_rollup"))
    return sum(map(int, found)) << 10 if found else anonymous(read(process, "status"))


def borrows(process: str) -> bool:
    """Whether its memory is its parent's, as of one that is about to start another program."""
    parent, number = PARENT.findall(read(process, "status")), KCMP.get(os.uname().machine)
    return bool(parent and number) and LIBC.syscall(number, int(process), int(parent[0]), VM, 0, 0) == 0


def faults_of(process: str) -> int:
    found = MIN_FAULTS.match(read(process, "stat"))
    return int(found[1]) if found else 0


def new_huge_pages() -> int:
    """Given to any process of the machine, so far."""
    with open("/proc/vmstat", "rb") as counts:
        return sum(map(int, NEW_HUGE.findall(counts.read())))


def in_folder(folder: str) -> int:
    """Bytes of a folder in memory, files without a name included."""
    held = os.statvfs(folder)
    return (held.f_blocks - held.f_bfree) * held.f_frsize + (held.f_files - held.f_ffree) * INODE_BYTES


def sockets_in_use() -> "tuple[int, int]":
    """All, and those of TCP."""
    used = of_tcp = 0
    for file in ("net/sockstat", "net/sockstat6"):
        counts = bytes(read("self", file))
        used += sum(map(int, SOCKETS.findall(counts)))
        of_tcp += sum(map(int, TCP_SOCKETS.findall(counts)))
    return used, of_tcp


def in_tcp() -> int:
    """Bytes that wait in queues. The kernel looks through a table of all the machine's sockets: milliseconds."""
    waiting = 0
    for file in ("net/tcp", "net/tcp6"):
        with contextlib.suppress(OSError):
            for lines in unforked.read(f"/proc/self/{file}"):
                waiting += sum(int(queue, 16) for of_socket in QUEUES.findall(lines) for queue in of_socket)
    return waiting
