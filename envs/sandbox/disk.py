"""Runs inside a sandbox, beside the runner: how much an experiment has written, and how that is deleted.

Where the kernel sets no quota, the runner looks. Invariants: a file counts as long as it takes up room, also when it
has no name any more but is open or mapped, or lies where its owner has closed the way; no link is followed. (Of a file
that is mapped only, what is mapped counts.) Standard library only; the host imports it as well.
"""

import contextlib
import errno
import itertools
import os
import stat
import time
import typing

MAX_FILES, LONG_PATH = 20_000, 3_000
TOO_LONG, IN_FLIGHT = "a name that is too long", "scm_fds:"
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
    files, folders = MAX_FILES, [folder]
    with contextlib.ExitStack() as held:
        while folders:
            between()
            at = folders.pop()
            try:
                found = entries_of(at, files + 1, held)
            except (FileNotFoundError, NotADirectoryError):  # it has gone meanwhile
                continue
            except OSError:  # it is closed again as soon as it is opened, or lies deeper than descriptors reach
                return True
            for path, status in found:
                room -= status.st_blocks * 512
                files -= 1
                if stat.S_ISDIR(status.st_mode):
                    folders.append(path)
            if room < 0 or files < 0:
                return True
    return nameless(folder, between) > room


def entries_of(folder: str, most: int, held: contextlib.ExitStack) -> "list[tuple[str, os.stat_result]]":
    """Path and status of at most so many entries of a folder; long paths begin at a descriptor that is `held`."""
    if len(os.fsencode(folder)) > LONG_PATH:
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        held.callback(os.close, descriptor)
        folder = f"/proc/self/fd/{descriptor}"
    try:
        return statuses(folder, most)
    except PermissionError:  # the script has closed it to its own user, who is the runner's as well
        os.chmod(folder, 0o700)
        return statuses(folder, most)


def statuses(folder: str, most: int) -> "list[tuple[str, os.stat_result]]":
    found = []
    with os.scandir(folder) as entries:
        for entry in itertools.islice(entries, most):
            with contextlib.suppress(FileNotFoundError):
                found.append((entry.path, entry.stat(follow_symlinks=False)))
    return found


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
    with contextlib.suppress(OSError), open(f"/proc/{process}/stat") as status:
        state, *fields = status.read().rpartition(")")[2].split()
        return state == "Z" and int(fields[NUM_THREADS]) > 1
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
            name = name_of(f"{thread}/fd/{number}")
            if name.startswith("socket:"):
                sockets.append(number)
            elif name == TOO_LONG or (name.startswith(f"{folder}/") and name.endswith(" (deleted)")):
                status = os.stat(f"{thread}/fd/{number}")
                if name != TOO_LONG or not status.st_nlink:
                    sizes[status.st_ino] = max(status.st_blocks * 512, sizes.get(status.st_ino, 0))
    return len(sockets) <= MOST_SOCKETS and not any(carries(f"{thread}/fdinfo/{number}") for number in sockets)


def name_of(descriptor: str) -> str:
    try:
        return os.readlink(descriptor)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return TOO_LONG


def carries(about: str) -> bool:
    """Whether descriptors wait in a socket for who takes them."""
    with contextlib.suppress(FileNotFoundError), open(about) as lines:  # closed by now
        return any(line.startswith(IN_FLIGHT) and int(line[len(IN_FLIGHT) :]) > 0 for line in lines)
    return False


def mapped(maps: str, folder: str) -> "dict[int, int]":
    """Inode → bytes of address space, of unlinked files."""
    sizes: dict[int, int] = {}
    with open(maps) as lines:
        for line in lines:
            if f" {folder}/" in line and line.endswith("(deleted)\n"):
                addresses, _, _, _, inode, *_ = line.split()
                start, end = (int(address, 16) for address in addresses.split("-"))
                sizes[int(inode)] = sizes.get(int(inode), 0) + end - start
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


def clear(folder: str, kept: "set[str]") -> None:
    """Delete what is in a folder but for the entries of these names."""
    for entry in list(os.scandir(folder)):
        if entry.name not in kept:
            if entry.is_dir(follow_symlinks=False):
                wipe(entry.path)
                os.rmdir(entry.path)
            else:
                os.unlink(entry.path)


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
