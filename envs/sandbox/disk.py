"""Runs inside a sandbox, beside the runner: how much an experiment has written, and how that is deleted.

Where the kernel sets no quota, the runner looks. Invariants: a file counts as long as it takes up room, also when it
has no name any more but is open or mapped, or lies where its owner has closed the way; no link is followed. (Of a file
that is mapped only, what is mapped counts.) While an experiment runs, no name is read but into pages that no fork gets
(`unforked`); what deletes does read them. Standard library only; the host imports it as well.
"""

import contextlib
import errno
import os
import re
import stat
import time
import typing

from envs.sandbox import unforked

MAX_FILES = 20_000
SOCKET, UNLINKED, TOO_LONG = "socket:", "unlinked", "too long"
"""What a descriptor is of."""
DELETED, IN_FLIGHT = " (deleted)", "scm_fds:"
OF_A_PROCESS = re.compile(rb".*\) (\S)(.*)", re.DOTALL)
"""Its state and the fields after it, behind the name that it has given itself."""
MOST_SOCKETS = 100
"""Of a process that are asked for what waits in them, a tenth of a millisecond each; with more it is not seen whole."""
NUM_THREADS = 16
"""Its place in /proc/PID/stat, after the state."""
HIDING_SECONDS = 0.7
"""So long a process may show nothing of its files: one that ends does so for a while, longer on a busy machine. So long
they may be on their way to another process, too."""
hidden: "dict[str, float]" = {}
"""Processes of which not all open files could be seen at the last look → since when."""


def over(folder: str, room: int, between: "typing.Callable[[], None]" = lambda: None) -> bool:
    """Whether what was written in `folder` takes more than `room` bytes, is too many files, or cannot be counted.

    between: is called again and again meanwhile; many files or descriptors take seconds on a busy machine.
    """
    files = MAX_FILES
    try:
        for _, blocks in walked(folder, between):
            room -= blocks * 512
            files -= 1
            if room < 0 or files < 0:
                return True
    except OSError:  # it is closed again as soon as it is opened, or lies deeper than descriptors reach
        return True
    return nameless(folder, between) > room


def has_special(folder: str) -> bool:
    """Whether there are pipes, sockets or the like, or folders too deep to tell."""
    try:
        return any(not (stat.S_ISDIR(mode) or stat.S_ISREG(mode) or stat.S_ISLNK(mode)) for mode, _ in walked(folder))
    except OSError:
        return True


def walked(folder: str, between: "typing.Callable[[], None]" = lambda: None) -> "typing.Iterator[tuple[int, int]]":
    """(mode, blocks) of all that is in a folder and below. Raises OSError."""
    inner = [unforked.enter(unforked.HERE, os.fsencode(folder))]
    """Each in the one before: what is open of them tells where their listing goes on."""
    try:
        while inner:
            between()
            for mode, blocks, enter in listed(inner[-1]):
                yield mode, blocks
                if stat.S_ISDIR(mode) and (entered := enter()) is not None:
                    inner.append(entered)
                    break
            else:
                os.close(inner.pop())
    finally:
        for descriptor in inner:
            os.close(descriptor)


def listed(folder: int) -> "typing.Iterator[tuple[int, int, typing.Callable[[], int | None]]]":
    """(mode, blocks, what opens it as a folder) of each entry that is left of an open folder's listing; who opens one
    goes on after it with another listing."""
    for name, after in unforked.entries(folder):
        try:
            try:
                mode, blocks = unforked.status(folder, name)
            except PermissionError:  # the script has closed it to its own user, who is the runner's as well
                os.fchmod(folder, 0o700)
                mode, blocks = unforked.status(folder, name)
        except FileNotFoundError:
            continue

        def enter(name: int = name, after: int = after) -> "int | None":
            try:
                entered = unforked.enter(folder, name)
            except OSError as error:
                if error.errno in unforked.GONE:
                    return None
                raise
            os.lseek(folder, after, os.SEEK_SET)
            return entered

        yield mode, blocks, enter


def hiding() -> bool:
    """Whether a process has not shown its files for a while, by the looks of `over`."""
    return any(time.monotonic() - since > HIDING_SECONDS for since in hidden.values())


def nameless(folder: str, between: "typing.Callable[[], None]" = lambda: None) -> int:
    """Bytes of the files from `folder` that were unlinked and that a process still has open or mapped.

    Leaves in `hidden` the processes that do not show theirs.
    """
    before = dict(hidden)
    hidden.clear()
    sizes: dict[int, int] = {}
    for process in os.listdir("/proc"):
        if process.isdigit() and int(process) != os.getpid():
            between()
            try:
                all_seen = held(process, folder, sizes)
            except PermissionError:
                all_seen = False
            if not all_seen:
                hidden[process] = before.get(process, time.monotonic())
    return sum(sizes.values())


def held(process: str, folder: str, sizes: "dict[int, int]") -> bool:
    """Add inode → bytes of the unlinked files from `folder` that it has open or mapped; whether these are all: not
    those that it has sent to somebody who has not taken them yet.

    Raises:
        PermissionError: it lives and does not show them.
    """
    all_seen = True
    try:
        threads = os.listdir(f"/proc/{process}/task")
    except OSError:
        if survived_by_threads(process):
            raise PermissionError(f"gVisor shows no thread of process {process}, whose first has ended") from None
        return all_seen
    mappings_seen = False
    for thread in threads:  # each may have descriptors of its own, and the first may have ended before the others
        own = f"/proc/{process}/task/{thread}"
        try:
            all_seen &= opened(own, folder, sizes)
            if not mappings_seen:
                for inode, size in mapped(f"{own}/maps", folder).items():
                    sizes[inode] = max(size, sizes.get(inode, 0))
                mappings_seen = True
        except PermissionError:
            if has_memory(own):  # one without is ending, and has closed its files or is about to
                raise
        except OSError:  # it has ended
            continue
    return all_seen


def survived_by_threads(process: str) -> bool:
    with contextlib.suppress(OSError):
        for text in unforked.read(f"/proc/{process}/stat"):
            state, fields = OF_A_PROCESS.match(text).groups()
            return state == b"Z" and int(fields.split()[NUM_THREADS]) > 1
    return False


def has_memory(thread: str) -> bool:
    with contextlib.suppress(OSError), open(f"{thread}/statm") as statm:
        return statm.read().split()[0] != "0"
    return False


def opened(thread: str, folder: str, sizes: "dict[int, int]") -> bool:
    """Add inode → bytes of unlinked files; whether none waits in a socket."""
    sockets = []
    for number in os.listdir(f"{thread}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed by now
            kind = kind_of(f"{thread}/fd/{number}", folder)
            if kind == SOCKET:
                sockets.append(number)
            elif kind in (UNLINKED, TOO_LONG):
                status = os.stat(f"{thread}/fd/{number}")
                if kind == UNLINKED or not status.st_nlink:
                    sizes[status.st_ino] = max(status.st_blocks * 512, sizes.get(status.st_ino, 0))
    return len(sockets) <= MOST_SOCKETS and not any(carries(f"{thread}/fdinfo/{number}") for number in sockets)


def kind_of(descriptor: str, folder: str) -> str:
    """`SOCKET`, `UNLINKED` from the folder, `TOO_LONG` a name to tell, or nothing of these."""
    try:
        name = unforked.link(descriptor)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return TOO_LONG
    if unforked.starts(name, SOCKET):
        return SOCKET
    return UNLINKED if unforked.starts(name, f"{folder}/") and unforked.ends(name, DELETED) else ""


def carries(about: str) -> bool:
    """Whether descriptors wait in a socket for who takes them."""
    with contextlib.suppress(FileNotFoundError), open(about) as lines:  # closed by now
        return any(line.startswith(IN_FLIGHT) and int(line[len(IN_FLIGHT) :]) > 0 for line in lines)
    return False


def mapped(maps: str, folder: str) -> "dict[int, int]":
    """Inode → bytes of address space, of unlinked files."""
    sizes: dict[int, int] = {}
    named = re.escape(os.fsencode(folder))
    of_deleted = re.compile(rb"^(\w+)-(\w+) \S+ \S+ \S+ (\d+) +" + named + rb"/.*\(deleted\)$", re.MULTILINE)
    for lines in unforked.read(maps):
        for start, end, inode in of_deleted.findall(lines):
            sizes[int(inode)] = sizes.get(int(inode), 0) + int(end, 16) - int(start, 16)
    return sizes


def wipe(folder: "str | os.PathLike[str]") -> None:
    """Delete what is in a folder, whatever its depth and permissions, without following links.

    Folders are moved up as they are met, so that neither recursion nor the length of a path has a limit to hit.
    """
    moved = 0
    while entries := list(os.scandir(folder)):
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            for inner in list(os.scandir(entry.path)):
                if inner.is_dir(follow_symlinks=False):
                    os.chmod(inner.path, 0o700)  # to move a folder takes write permission on it
                    while os.path.lexists(target := os.path.join(folder, f"moved-{moved}")):
                        moved += 1
                    os.rename(inner.path, target)
                else:
                    os.unlink(inner.path)
            os.rmdir(entry.path)


def remove_special(folder: str) -> None:
    """Remove pipes and sockets, which gVisor keeps to itself: the host could not."""
    folders = [folder]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif not (entry.is_file(follow_symlinks=False) or entry.is_symlink()):
                    os.unlink(entry.path)
