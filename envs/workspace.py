"""Workspaces and their snapshots: what an experiment finds in its working folder.

A snapshot holds only the files that differ from the task's own (the edited script, files the agent wrote) and, by their
content, those that a task keeps of what a run leaves; what else it leaves is discarded. Data is not copied: a workspace
has links into the read-only task folder, so restoring costs the size of what differs (but for tasks that a verifier
grades, whose files are all their script's to change). Invariants: snapshots are content-addressed and immutable;
emptying or filling a workspace follows no link that an experiment left; a snapshot is deleted only if no kept state
needs it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from envs.records import Kept, State, Task
from envs.sandbox.base import MOUNTED_TASK
from envs.sandbox.disk import wipe
from envs.store import Store

CONTENTS = "kept"
"""The folder, beside the snapshots, of the content of files that runs left."""
Files = Mapping[str, str | Kept]
"""Of a state that differ from the task's: path → text, or a content that is kept."""
REMEMBERED = 1024
"""Snapshots kept in memory."""


class SnapshotStore:
    """Files by content, in a folder or at any fsspec path that every actor of a run can reach."""

    def __init__(self, path: str | Path):
        self._store = Store(path)
        self.get = functools.lru_cache(REMEMBERED)(self._get)

    def put(self, files: Files) -> str:
        """Store path → text, or content that is kept, and return the snapshot's id; equal content has an equal id.

        What is there already is written again, and so young again: `collect` must not take it from the step that has
        come to it anew.
        """
        content = msgspec.json.encode(dict(sorted(files.items())))
        snapshot = hashlib.sha256(content).hexdigest()[:24]
        self._store.write(_file(snapshot), content)
        self.are_kept(files)
        return snapshot

    def keep(self, content: bytes) -> Kept:
        """Store the content of a file that a run left."""
        kept = Kept(hashlib.sha256(content).hexdigest(), len(content))
        if not self._store.refresh(_content(kept)):
            self._store.write(_content(kept), content)
        return kept

    def content(self, kept: Kept) -> bytes:
        """Raises FileNotFoundError if the store has none."""
        return self._store.read(_content(kept))

    def are_kept(self, files: Files) -> bool:
        """Whether the content of all that is kept of these files is there; it is young again, then."""
        return all([self._store.refresh(_content(file)) for file in files.values() if isinstance(file, Kept)])

    def take(self, other: SnapshotStore, snapshot: str) -> None:
        """Have a snapshot of another store, with what is kept of it."""
        files = other.get(snapshot)
        for file in files.values():
            if isinstance(file, Kept):
                self.keep(other.content(file))
        self.put(files)

    def _get(self, snapshot: str) -> Files:
        """Path → text, or content that is kept, of a snapshot.

        Raises:
            FileNotFoundError: the store has no such snapshot.
        """
        return MappingProxyType(msgspec.json.decode(self._store.read(_file(snapshot)), type=dict[str, str | Kept]))

    def collect(self, keep: Iterable[State], older_than: float) -> int:
        """Delete the snapshots that none of these states needs; returns their number.

        older_than: seconds; younger ones may belong to a step that has not ended.
        """
        needed = {snapshot for state in keep for snapshot in (state.snapshot, *(before for before, _ in state.undo))}
        files = {_file(snapshot) for snapshot in needed}
        if self._store.names(CONTENTS):  # else there is no need to look into snapshots
            files |= {_content(file) for name in needed for file in self._known(name) if isinstance(file, Kept)}
        return self._store.delete_others(files, older_than)

    def _known(self, snapshot: str) -> Iterable[str | Kept]:
        try:
            return self.get(snapshot).values()
        except FileNotFoundError:
            return ()


def _file(snapshot: str) -> str:
    return f"{snapshot}.json"


def _content(kept: Kept) -> str:
    return f"{CONTENTS}/{kept.digest}"


def restore(task: Task, files: Files, workspace: Path, content: Callable[[Kept], bytes] | None = None) -> None:
    """Make `workspace` the task's folder with `files` (relative path → text, or what is kept) laid over it.

    content: of what is kept, where there may be any.

    Raises:
        ValueError: a path leads out of the workspace.
        OSError: the workspace cannot be emptied or written.
    """
    if outside := [name for name in files if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise ValueError(f"the path {outside[0]!r} leads out of the workspace")
    os.chmod(workspace, 0o755)  # an experiment may have closed it
    for name in os.listxattr(workspace):  # nor is the folder itself to tell the next one anything
        os.removexattr(workspace, name)
    os.utime(workspace)
    wipe(workspace)
    owner = os.stat(workspace)
    if task.verifier:
        _copy(task.env_dir, workspace, owner)
    else:
        _link(task.env_dir, Path(MOUNTED_TASK), workspace, {Path(name) for name in files}, owner)
    for name, text in files.items():
        file = workspace / name
        for folder in reversed(file.relative_to(workspace).parents[:-1]):
            if not (workspace / folder).exists():
                (workspace / folder).mkdir()
                os.chown(workspace / folder, owner.st_uid, owner.st_gid)
        if isinstance(text, Kept):
            file.write_bytes(content(text))
        else:
            file.write_text(text, encoding="utf-8")
        os.chown(file, owner.st_uid, owner.st_gid)


def _copy(source: Path, target: Path, owner: os.stat_result) -> None:
    """Copy what is in `source`, for a task whose tests look at all files and whose script may change any."""
    for entry in os.scandir(source):
        place = target / entry.name
        if entry.is_dir(follow_symlinks=False):
            place.mkdir()
            _copy(Path(entry.path), place, owner)
        else:
            shutil.copy(entry.path, place, follow_symlinks=False)
        os.chown(place, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _link(source: Path, shown: Path, target: Path, own: set[Path], owner: os.stat_result) -> None:
    """Link what is in `source`; a folder in which an own file lies becomes a real folder of links."""
    for entry in os.scandir(source):
        below = {Path(*path.parts[1:]) for path in own if path.parts[0] == entry.name}
        if not below:
            (target / entry.name).symlink_to(shown / entry.name)
        elif entry.is_dir(follow_symlinks=False):
            (target / entry.name).mkdir()
            os.chown(target / entry.name, owner.st_uid, owner.st_gid)
            _link(Path(entry.path), shown / entry.name, target / entry.name, below, owner)
