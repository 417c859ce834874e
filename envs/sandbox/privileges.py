"""Runs inside a sandbox: which user the runner and its experiments are, and what privileges these have.

Invariants: an experiment has none, and no way to any; a runner that is not protected as PID 1 is another user than its
experiments, and keeps those that it needs to end them. Standard library only.
"""

import ctypes
import os

GUARD = 1
"""The runner's user id where it is another than the experiments'."""
PR_SET_KEEPCAPS, PR_CAPBSET_DROP = 8, 24
CAPABILITY_VERSION_3 = 0x20080522
LIBC = ctypes.CDLL(None)


def stand_guard() -> None:
    """Become a user that is neither 0 nor an experiment's, and keep the privileges.

    gVisor used to give them to a first process of any user, as Linux does not; since 2024 only user 0 has them.
    """
    header, held = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    LIBC.capget(header, held)
    for descriptor in range(3):  # of the conversation with the host: user 0, whom an experiment is, could open them
        os.fchown(descriptor, GUARD, GUARD)
        os.fchmod(descriptor, 0o600)
    LIBC.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(GUARD)
    os.setuid(GUARD)
    LIBC.prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0)
    held[0], held[3] = held[1], held[4]  # effective as permitted, each in two words
    if LIBC.capset(header, held):
        raise OSError("the runner loses its privileges")


def become(uid: int) -> None:
    """Become the user of this sandbox's experiments, without privileges and without a way to them."""
    if os.getuid() != uid:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    for capability in range(64):  # those that a program started by user 0 would get
        if LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):  # that was the last, or there is no way to any
            break
    none = (ctypes.c_uint32 * 6)()
    if LIBC.capset((ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), none):
        raise OSError("the sandbox's user keeps its privileges")
