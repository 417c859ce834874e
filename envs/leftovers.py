"""What commands have left in a workspace: which files of a state are new, changed or gone, and what no state can hold.

Invariants: no link is followed; nothing is read but regular files that are small enough to be edited; of what lies in a
workspace beyond that, names are told and nothing else. It runs when no process of the commands is left.
"""

from __future__ import annotations

import filecmp
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from envs.actions import MAX_FILE_BYTES, MAX_PATH_PARTS, PATH_PART
from envs.sandbox.base import MOUNTED_TASK

IGNORED = frozenset({"__pycache__"})
MOST = 1000
"""Entries of each kind that are told; nobody can make use of more."""


class Changes(NamedTuple):
    """As of `envs.records.Commands`."""

    written: dict[str, str]
    deleted: tuple[str, ...]
    others: tuple[str, ...]


NONE = Changes({}, (), ())


def changes(workspace: Path, laid: Mapping[str, str], own: Path) -> Changes:
    """What differs from the files (path → text) that were laid into the workspace over links to the task's, or copies
    of them.

    own: the task's folder.
    """
    written: dict[str, str] = {}
    others: list[str] = []
    present: set[str] = set()
    for name, file in _entries(workspace):
        text = _text(file) if file else None
        if text is not None:
            present.add(name)
        if name not in laid and file and _same(file, own / name):
            continue
        if text is None and len(others) < MOST:
            others.append(name)
        elif text is not None and laid.get(name) != text and len(written) < MOST:
            written[name] = text
    return Changes(written, tuple(sorted(set(laid) - present - set(others))), tuple(others))


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


def _text(file: Path) -> str | None:
    """Text of a file; None of one that is none, or too large."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except PermissionError:
        os.chmod(file, 0o600)  # it is a regular file, and nobody is left who could put a link in its place
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as opened:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            return None
        content = opened.read(MAX_FILE_BYTES + 1)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return text if len(content) <= MAX_FILE_BYTES and "\0" not in text else None
