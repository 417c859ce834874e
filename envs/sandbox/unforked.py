"""Runs inside a sandbox, in the runner: reads what an experiment has named, and is told, into pages that no fork gets.

Names of files and of processes are an experiment's to choose, as commands are a policy's, and what the runner reads
otherwise stays in its heap for a while, of which the next experiment gets a copy. Invariant: no byte of these leaves
the pages; a view of them holds until the next call. For one thread. Standard library only.
"""

import ctypes
import errno
import mmap
import os
import struct
import typing

SIZE, LISTING, STATUS = 1 << 20, 4096, 8192
"""Bytes of the pages, and of those a folder's entries have; where the status of a file is put."""
GETDENTS64, STATX = {"x86_64": (217, 332), "aarch64": (61, 291)}.get(os.uname().machine, (-1, -1))
HERE, NO_FOLLOW, BASIC = -100, 0x100, 0x7FF
"""Of `openat`, `statx`: relative to the working folder, links themselves, mode and blocks among others."""
ENTRY, NAME = struct.Struct("=QqH"), 19
"""Inode, where the next entry begins, length; and where the name is (`struct linux_dirent64`)."""
MODE_AND_BLOCKS, MODE_AT = struct.Struct("=H18xQ"), 28
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
LIBC = ctypes.CDLL(None, use_errno=True)
pages = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
pages.madvise(mmap.MADV_DONTFORK)
view = memoryview(pages)
ADDRESS = ctypes.addressof(ctypes.c_char.from_buffer(pages))


def read(file: str) -> "typing.Iterator[memoryview]":
    """The file in pieces of whole lines, of which none is longer than the pages."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        kept = 0
        while length := os.readv(descriptor, [view[kept:]]):
            kept += length
            if whole := pages.rfind(b"\n", 0, kept) + 1:
                yield view[:whole]
                view[: kept - whole] = view[whole:kept]
                kept -= whole
        if kept:
            yield view[:kept]
    finally:
        os.close(descriptor)


def message(descriptor: int) -> "tuple[memoryview, memoryview] | None":
    """The next two lines, which are sent together; None where the other side has gone."""
    length = 0
    while not (0 < (first := pages.find(b"\n", 0, length) + 1) < length and view[length - 1] == ord("\n")):
        if not (more := os.readv(descriptor, [view[length:]])):
            return None
        length += more
    return view[:first], view[first:length]


def link(path: str) -> memoryview:
    """Where a link leads. Raises OSError."""
    return view[: _done(LIBC.readlink(path.encode(), ctypes.c_void_p(ADDRESS), ctypes.c_size_t(SIZE)))]


def holds(folder: str) -> bool:
    """Whether there is anything in a folder."""
    descriptor = enter(HERE, folder.encode())
    try:
        return any(True for _ in entries(descriptor))
    finally:
        os.close(descriptor)


def has_more_than_a_line(file: str) -> bool:
    """Also where there is no such file: no."""
    try:
        return any(pages.find(b"\n", 0, len(piece)) + 1 < len(piece) for piece in read(file))
    except FileNotFoundError:
        return False


def starts(name: memoryview, text: str) -> bool:
    return name[: len(text)] == text.encode()


def ends(name: memoryview, text: str) -> bool:
    return name[max(0, len(name) - len(text)) :] == text.encode()


def entries(folder: int) -> "typing.Iterator[tuple[int, int]]":
    """(where its name is, where the next one begins) of what is in a folder that is open, from where it stands."""
    while length := _done(LIBC.syscall(GETDENTS64, folder, ctypes.c_void_p(ADDRESS), LISTING)):
        at = 0
        while at < length:
            _, after, size = ENTRY.unpack_from(view, at)
            name = view[at + NAME : at + NAME + 3]
            if not (starts(name, ".\0") or starts(name, "..\0")):
                yield ADDRESS + at + NAME, after
            at += size


def status(folder: int, name: int) -> "tuple[int, int]":
    """Mode, and blocks of 512 bytes, of an entry; of a link, its own. Raises OSError."""
    _done(LIBC.syscall(STATX, folder, ctypes.c_void_p(name), NO_FOLLOW, BASIC, ctypes.c_void_p(ADDRESS + STATUS)))
    return MODE_AND_BLOCKS.unpack_from(view, STATUS + MODE_AT)


def enter(folder: int, name: "int | bytes") -> int:
    """The folder of that name, opened; also where its owner, who is the runner's user too, has closed it.

    Raises:
        OSError: it has gone, or cannot be opened.
    """
    where = ctypes.c_char_p(name) if isinstance(name, bytes) else ctypes.c_void_p(name)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return _done(LIBC.openat(folder, where, flags))
    except PermissionError:
        LIBC.fchmodat(folder, where, 0o700, 0)
        return _done(LIBC.openat(folder, where, flags))


def _done(result: int) -> int:
    if result < 0:
        raise OSError(number := ctypes.get_errno(), os.strerror(number))
    return result
