"""The experiment cache: identical experiments are run once.

An experiment is identified by the task (its content, script, fidelity and limits), the files laid over it, the image
and the seed. Results lie as `<task>/<content>-<setting>.json` under any fsspec path, so that actors on several nodes
share them and `simulated` can answer from them. Invariants: of identical experiments on one machine at most one runs,
and the others wait for it; a failure of the sandbox is never kept, and what a busy machine can bring about (a time-out,
too little memory) only once it has happened twice; a damaged record counts as none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import logging
import os
import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from envs.admission import Capacity
from envs.experiments import SandboxRunner
from envs.records import Commands, Experiment, Origin, Outcome, Task
from envs.store import Store
from envs.workspace import Files, SnapshotStore

log = logging.getLogger(__name__)

BY_CHANCE = frozenset({Outcome.TIMEOUT, Outcome.OUT_OF_MEMORY})
"""What may go otherwise another time."""
ONCE = ".once"
"""The folder, beside those of the tasks, of the results that happened once and may go otherwise."""
RECORD = msgspec.json.Decoder(Experiment)
"""Made while one thread imports this: where several are the first to decode a dataclass at the same time, msgspec hands
one of them what another has half built, and the process dies of it (msgspec 0.22)."""


class CachedRunner:
    """A `Runner` that asks another one only for what it has not seen."""

    def __init__(self, runner: SandboxRunner, path: str | Path, snapshots: SnapshotStore | None = None):
        """snapshots: where the files lie that runs left; a result whose files are not there any more is none."""
        self._runner, self._store, self._snapshots = runner, Store(path), snapshots
        self.name = runner.name

    @property
    def running(self) -> int:
        return self._runner.running

    def run(self, task: Task, files: Files) -> Experiment:
        setting = _hash(dataclasses.asdict(task.limits), self._runner.image, self._runner.seed)
        key = f"{content_key(task, files)}-{setting}"
        name = f"{task.id}/{key}.json"
        if found := self._found(name, task):
            return found
        with _only_one(key):
            if found := self._found(name, task):
                return found
            experiment = self._runner.run(task, files)
            sure = experiment.outcome not in BY_CHANCE or read_record(self._store, f"{ONCE}/{name}")
            self._store.write(name if sure else f"{ONCE}/{name}", msgspec.json.encode(experiment))
            return experiment

    def _found(self, name: str, task: Task) -> Experiment | None:
        found = read_record(self._store, name)
        if found and found.kept and not (self._snapshots and self._snapshots.are_kept(dict(found.kept))):
            return None
        if found and found.withheld and not task.parts:  # earlier versions did not write that it is no part's
            found = dataclasses.replace(found, withheld=dataclasses.replace(found.withheld, apart=False))
        return found

    def shell(self, task: Task, files: Files, command: str) -> Commands:
        """Run anew each time: what commands print and leave may be of the moment."""
        return self._runner.shell(task, files, command)

    def resize(self, capacity: Capacity) -> None:
        self._runner.resize(capacity)

    def expect(self, tasks: Iterable[Task]) -> None:
        self._runner.expect(tasks)

    def close(self) -> None:
        self._runner.close()


def content_key(task: Task, files: Files) -> str:
    """Hash of what is run: the task's content at its fidelity, the parts of its answers, the files laid over it."""
    parts = task.parts and task.parts.name
    return _hash(task.digest or str(task.env_dir), task.script, task.fidelity, parts, sorted(files.items()))


def _hash(*parts: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:20]


def read_record(store: Store, name: str) -> Experiment | None:
    """The kept result of that name, marked as such; None if there is none, or none that can be read."""
    try:
        experiment = RECORD.decode(store.read(name))
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        log.warning("the cached experiment %s/%s is damaged and is run again: %s", store.path, name, error)
        return None
    return dataclasses.replace(experiment, origin=Origin.CACHE)


@contextlib.contextmanager
def _only_one(key: str) -> Iterator[None]:
    """Hold the lock of that key, against all threads and processes of this user on this machine.

    One byte of one file per key (an "open file description" lock): nothing to clean up, and the kernel frees it when
    its holder dies, however that happens.
    """
    folder = Path(tempfile.gettempdir()) / f"mlagent-locks-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "experiments").open("wb") as file:
        offset = int(_hash(key)[:15], 16)
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
        fcntl.fcntl(file, fcntl.F_OFD_SETLKW, lock)
        yield
