"""The simulated backend: answers experiments from recorded ones, for rehearsals and load tests.

Records are those of an experiment cache. An experiment that was recorded gets its own result; any other gets that of
a recorded experiment of its task, always the same one for the same files. Invariants: every result is marked
`SIMULATED`, so that no evaluation counts it; nothing is executed.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterable
from pathlib import Path

from envs.admission import Admission, Capacity
from envs.benchmarks.loader import TaskError
from envs.experiment_cache import content_key, read_record
from envs.records import Commands, Experiment, Origin, Outcome, Task
from envs.store import Store
from envs.workspace import Files


class SimulatedRunner:
    """A `Runner` that takes as long as the recorded run did, times `speed`, and uses nothing else."""

    name = "simulated"

    def __init__(self, recorded: str | Path, capacity: Capacity, speed: float = 1.0):
        """recorded: the folder `experiments` of a run, or any path where an experiment cache lies."""
        self._store, self._admission, self._speed = Store(recorded), Admission(capacity), speed
        self._records = functools.cache(self._read)

    @property
    def running(self) -> int:
        return self._admission.running

    def run(self, task: Task, files: Files) -> Experiment:
        arrived = time.monotonic()
        with self._admission.admit(f"{task.id}@{task.fidelity:g}", task.limits):
            queued = time.monotonic() - arrived
            found = self._find(task, files)
            time.sleep(found.durations.execute * self._speed)
        durations = dataclasses.replace(found.durations, queue=queued)
        return dataclasses.replace(found, origin=Origin.SIMULATED, durations=durations, kept=None)

    def shell(self, task: Task, files: Files, command: str) -> Commands:
        """Of commands nothing is recorded: they print that, and change nothing."""
        return Commands(Outcome.NEUTRAL, "commands are not run where experiments are simulated")

    def _find(self, task: Task, files: Files) -> Experiment:
        records, key = self._records(task.id), content_key(task, files)
        own = [record for content, record in records if content == key]
        return own[0] if own else records[int(key, 16) % len(records)][1]

    def _read(self, task_id: str) -> list[tuple[str, Experiment]]:
        """(content key, result) of every recorded experiment of the task."""
        names = self._store.names(task_id)
        found = [(Path(name).name.split("-")[0], read_record(self._store, name)) for name in names]
        if readable := [(content, record) for content, record in found if record]:
            return readable
        raise TaskError(
            f"no experiment of task {task_id} is recorded in {self._store.path} (sandbox.recorded): "
            "run it once with sandbox.cache=true"
        )

    def resize(self, capacity: Capacity) -> None:
        self._admission.resize(capacity)

    def expect(self, tasks: Iterable[Task]) -> None:
        """There is nothing to start."""

    def close(self) -> None:
        pass
