"""What a run, or commands, left in a workspace: what the task keeps, what is new, changed or gone, what no state holds.

Invariants: no link is followed; nothing is read but regular files that are small enough to be edited, or that are kept
and within the quota; of what lies in a workspace beyond that, names are told and nothing else. It runs when no process
of theirs is left.
"""

from __future__ import annotations

import filecmp
import fnmatch
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from envs.actions import MAX_FILE_BYTES, MAX_PATH_PARTS, PATH_PART
from envs.changes import SUBMISSION
from envs.records import Kept, Task
from envs.sandbox.base import MOUNTED_TASK

IGNORED = frozenset({"__pycache__"})
MOST_KEPT, TOLD = 100, 8
"""Files that are kept of one state, and names that are told."""
MOST = 1000
"""Entries of each kind that are told; nobody can make use of more."""


class Changes(NamedTuple):
    """As of `envs.records.Commands`."""

    written: dict[str, str]
    deleted: tuple[str, ...]
    others: tuple[str, ...]


NONE = Changes({}, (), ())


def changes(workspace: Path, laid: Mapping[str, str | Kept], task: Task) -> Changes:
    """What differs from the files (path → text) that were laid into the workspace over links to the task's, or copies
    of them.

    Files that the task keeps are told by `kept`.
    """
    written: dict[str, str] = {}
    others: list[str] = []
    present: set[str] = set()
    for name, file in _entries(workspace):
        if _matches(name, task) and not isinstance(laid.get(name), str):
            continue
        text = _text(file) if file else None
        if text is not None:
            present.add(name)
        if name not in laid and file and _same(file, task.env_dir / name):
            continue
        if text is None and len(others) < MOST:
            others.append(name)
        elif text is not None and laid.get(name) != text and len(written) < MOST:
            written[name] = text
    return Changes(
        written,
        tuple(sorted({name for name, file in laid.items() if isinstance(file, str)} - present - set(others))),
        tuple(others),
    )


def kept(
    workspace: Path, task: Task, files: Mapping[str, str | Kept], keep: Callable[[bytes], Kept]
) -> tuple[tuple[tuple[str, Kept], ...] | None, str]:
    """What the task keeps of the files that a run left, and what is said of it: all of them, or where they are over the
    quota none, so that what was kept before stays (None).

    files: of the state, whose texts are kept as such; keep: stores a content.
    """
    own = {*task.read_only, *task.editable, task.script, SUBMISSION}
    own |= {name for name, file in files.items() if isinstance(file, str)}
    found = {name: file for name, file in _entries(workspace) if file and name not in own and _matches(name, task)}
    size = sum(file.stat().st_size for file in found.values())
    told = f"{', '.join(list(found)[:TOLD])}{' …' if len(found) > TOLD else ''} ({size / 2**20:.2g} MiB)"
    if size > task.keep_mb << 20 or len(found) > MOST_KEPT:
        return None, f"not kept: {told}: over the {task.keep_mb} MiB, or {MOST_KEPT} files, that may be"
    contents = {name: content for name, file in found.items() if (content := _content(file)) is not None}
    return tuple((name, keep(content)) for name, content in contents.items()), f"kept: {told}" if found else ""


def _matches(name: str, task: Task) -> bool:
    return any(fnmatch.fnmatch(name, glob) for glob in task.keep)


def _entries(folder: Path, prefix: str = "", depth: int = 1) -> Iterator[tuple[str, Path | None]]:
    """Path of each file, in order; with None of what can be no file of a state. Links to the task's files are none."""
    for entry in sorted(_scanned(folder), key=lambda entry: entry.name):
        name = prefix + entry.name
        proper = bool(PATH_PART.fullmatch(entry.name)) and depth <= MAX_PATH_PARTS
        if entry.is_dir(follow_symlinks=False):
            if entry.name in IGNORED:
                continue
            if proper and depth < MAX_PATH_PARTS:
                yield from _entries(Path(entry.path), f"{name}/", depth + 1)
            else:
                yield f"{name}/", None
        elif entry.is_file(follow_symlinks=False):
            yield name, Path(entry.path) if proper else None
        elif not (entry.is_symlink() and os.readlink(entry.path).startswith(f"{MOUNTED_TASK}/")):
            yield name, None


def _scanned(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except PermissionError:  # commands have closed it to their user, who is ours as well
        os.chmod(folder, 0o700)
        return list(os.scandir(folder))


def _same(file: Path, own: Path) -> bool:
    try:
        alike = own.is_file() and own.stat().st_size == file.stat().st_size
        return alike and filecmp.cmp(file, own, shallow=False)
    except OSError:
        return False


def _content(file: Path, most: int = -1) -> bytes | None:
    """At most so many bytes of a file; None of one that is none, or has another name as well."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except PermissionError:
        os.chmod(file, 0o600)  # it is a regular file, and nobody is left who could put a link in its place
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as opened:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            return None
        return opened.read(most)


def _text(file: Path) -> str | None:
    """Text of a file; None of one that is none, or too large."""
    if (content := _content(file, MAX_FILE_BYTES + 1)) is None:
        return None
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return text if len(content) <= MAX_FILE_BYTES and "\0" not in text else None
