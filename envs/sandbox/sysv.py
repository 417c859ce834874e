"""Runs inside a sandbox, in the runner: System V shared memory, queues and semaphores, which outlive who made them.

gVisor lists none, and there none are allowed. Standard library only.
"""

import contextlib
import ctypes

from envs.sandbox import unforked

LIBC = ctypes.CDLL(None)
LISTED = "/proc/sysvipc"
REMOVES = {"shm": LIBC.shmctl, "msg": LIBC.msgctl, "sem": lambda id, *_: LIBC.semctl(id, 0, 0)}
"""What removes an object of each kind."""


def left() -> bool:
    """Whether there are any; nothing of them is read."""
    return any(unforked.has_more_than_a_line(f"{LISTED}/{kind}") for kind in REMOVES)


def remove() -> None:
    """Remove all, whose keys are read."""
    for kind, remove_one in REMOVES.items():
        with contextlib.suppress(FileNotFoundError), open(f"{LISTED}/{kind}") as lines:
            for line in list(lines)[1:]:
                remove_one(int(line.split()[1]), 0, None)
