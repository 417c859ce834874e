"""Runs inside a sandbox, in the runner, once: which system calls experiments may make, by a filter that forks inherit.

It is Docker's default profile for a container without capabilities (`seccomp_table` prints the table), narrower where
the kernel would keep what an experiment leaves, or let it reach the runner: no queues, only sockets of IP, Unix and
for listing interfaces, no limits of others. So namespaces, mounts, keyrings, io_uring, userfaultfd and vsock are
refused. Invariant: of what the table does not know, nothing is allowed. Standard library only.
"""

import ctypes
import errno
import os
import struct
import sys

ALLOWED = {
    "x86_64": "0-40 42-55 57-102 104-133 137-138 140-152 154 157-160 162 186-211 213-226 228-235 247 251-255 257-271 "
    "273-278 280-297 299 301 303 305-307 309-311 314-319 322 324-334 424 434 436-437 439 441 444-449 451-456",
    "aarch64": "0-17 19-38 43-50 52-57 59 61-88 90-91 93-96 98-103 107-111 113-115 117-141 143-160 163-169 171-179 "
    "186-197 199-216 221-223 226-234 240 242-243 260 263-264 266-267 269-271 274-279 281 283-293 424 434 436-437 439 "
    "441 444-449 451-456",
}
"""Numbers of system calls that are allowed whatever their arguments."""
NUMBERS = {
    "x86_64": {
        "clone": 56, "personality": 135, "prlimit64": 302, "socket": 41, "shmget": 29, "semget": 64, "msgget": 68,
        "mmap": 9, "setsockopt": 54, "memfd_create": 319, "vmsplice": 278, "kcmp": 312,
    },
    "aarch64": {
        "clone": 220, "personality": 92, "prlimit64": 261, "socket": 198, "shmget": 194, "semget": 190, "msgget": 186,
        "mmap": 222, "setsockopt": 208, "memfd_create": 279, "vmsplice": 75, "kcmp": 272,
    },
}  # fmt: skip
CLONE3, MEMFD_SECRET, LAST = 435, 447, 456
"""The same everywhere; above the last one the C library has to do without."""
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NEW_NAMESPACES = 0x7E020000
FAMILIES, NETLINK, ROUTE = (1, 2, 10), 16, 0
"""Unix, IPv4, IPv6; routing netlink lists interfaces."""
SHARED, ANONYMOUS = 0x1, 0x20
"""Flags of `mmap`."""
SOCKET_LEVEL, SEND_BUFFER, RECEIVE_BUFFER, ZERO_COPY = 1, 7, 8, 60
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

LOAD, EQUAL, GREATER, ATLEAST, ANY_OF, RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
"""Offsets in `struct seccomp_data`; of an argument, 8 bytes each, the lower half is looked at."""
ALLOW, REFUSE, UNKNOWN, KILL = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS, 0x80000000
IGNORE = 0x50000
"""Says that it is done, and does nothing."""
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, FILTER = 22, 38, 2

Instruction = "tuple[int, int, int, int]"


def install(guarded: bool, counted: bool) -> None:
    """From now on, here and in all forks.

    guarded: nobody could find and remove System V objects, so they are refused as well; counted: `memory` counts what
    experiments have.

    Raises:
        OSError: the kernel does not take the filter.
    """
    machine = os.uname().machine
    if machine not in ALLOWED:
        raise OSError(f"no filter of system calls is known for {machine}: use a machine of {', '.join(ALLOWED)}")
    load(program(machine, guarded, counted))


def keep_countable() -> None:
    """For an experiment whose memory is counted, after `install`."""
    load(countable(os.uname().machine))


def load(instructions: "list[Instruction]") -> None:
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    told = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, FILTER, told, 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel takes no filter of system calls (seccomp)")


def program(machine: str, guarded: bool, counted: bool) -> "list[Instruction]":
    """(code, jump if true, jump if false, operand) of each instruction of classic BPF."""
    named = NUMBERS[machine]
    refused = [named[name] for name in ("shmget", "semget", "msgget") if guarded or counted]
    return [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, ARCHITECTURES[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (ATLEAST, 0, 1, LAST + 1),
        (RETURN, 0, 0, UNKNOWN),
        *case(CLONE3, [(RETURN, 0, 0, UNKNOWN)]),
        *(step for number in refused for step in case(number, [(RETURN, 0, 0, REFUSE)])),
        *(case(named["kcmp"], [(RETURN, 0, 0, ALLOW)]) if counted else ()),
        *case(named["clone"], [argument(0), (ANY_OF, 0, 1, NEW_NAMESPACES), *ends(REFUSE, ALLOW)]),
        *case(named["personality"], [argument(0), *one_of(PERSONALITIES), (RETURN, 0, 0, REFUSE)]),
        *case(named["prlimit64"], [argument(0), *one_of((0,)), (RETURN, 0, 0, REFUSE)]),
        *case(named["socket"], [
            argument(0), *one_of(FAMILIES), (EQUAL, 1, 0, NETLINK), (RETURN, 0, 0, REFUSE),
            argument(2), *one_of((ROUTE,)), (RETURN, 0, 0, REFUSE),
        ]),
        *(step for lowest, highest in spans(ALLOWED[machine]) for step in (
            (ATLEAST, 1, 0, lowest), (RETURN, 0, 0, REFUSE), (GREATER, 1, 0, highest), (RETURN, 0, 0, ALLOW),
        )),
        (RETURN, 0, 0, REFUSE),
    ]  # fmt: skip


def countable(machine: str) -> "list[Instruction]":
    """Refuses memory that shows in no process and no folder, or that outlives its process: files in memory, pages given
    to pipes and sockets, and what is shared without a file, of which there stays what nobody has mapped any more.
    Buffers of sockets keep their size."""
    named = NUMBERS[machine]
    return [
        (LOAD, 0, 0, NUMBER),
        *(step for number in (named["memfd_create"], MEMFD_SECRET, named["vmsplice"], named["kcmp"])
          for step in case(number, [(RETURN, 0, 0, REFUSE)])),
        *case(named["mmap"], [argument(3), (ANY_OF, 0, 2, ANONYMOUS), (ANY_OF, 0, 1, SHARED), *ends(REFUSE, ALLOW)]),
        *case(named["setsockopt"], [
            argument(1), (EQUAL, 0, 7, SOCKET_LEVEL), argument(2),
            (EQUAL, 0, 1, SEND_BUFFER), (RETURN, 0, 0, IGNORE), (EQUAL, 0, 1, RECEIVE_BUFFER), (RETURN, 0, 0, IGNORE),
            (EQUAL, 0, 1, ZERO_COPY), (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW),
        ]),
        (RETURN, 0, 0, ALLOW),
    ]  # fmt: skip


def case(number: int, then: "list[Instruction]") -> "list[Instruction]":
    """What is done for this system call; others skip it."""
    return [(EQUAL, 0, len(then), number), *then]


def argument(index: int) -> "Instruction":
    low = 0 if sys.byteorder == "little" else 4
    return (LOAD, 0, 0, ARGUMENTS + 8 * index + low)


def one_of(values: "tuple[int, ...]") -> "list[Instruction]":
    """Allow it if what was loaded is one of these."""
    return [step for value in values for step in ((EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW))]


def ends(if_so: int, otherwise: int) -> "list[Instruction]":
    return [(RETURN, 0, 0, if_so), (RETURN, 0, 0, otherwise)]


def spans(text: str) -> "list[tuple[int, int]]":
    """Lowest and highest number of each range."""
    pairs = [part.split("-") for part in text.split()]
    return [(int(pair[0]), int(pair[-1])) for pair in pairs]
