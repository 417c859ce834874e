"""Experiments: one run of a task's script on given files, graded.

`SandboxRunner` runs it in a sandbox; `experiment_cache` and `simulated` answer in its place. Invariants: a result
depends on the task, the files, the seed and the sandbox's image, never on an earlier experiment; a sandbox that fails
is replaced once, and the second failure is raised; what a script prints is no score.
"""

from __future__ import annotations

import itertools
import shlex
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from envs import grading, leftovers, verification
from envs.admission import Admission, Capacity
from envs.grading import GradeError, GraderFailed, grade
from envs.records import MILESTONES, Commands, Durations, Experiment, Findings, Kept, Outcome, Task, Withheld
from envs.relief import Relief
from envs.sandbox import Sandbox, SandboxFailure, SandboxPool, room_of
from envs.sandbox.runner import SHELL
from envs.workspace import Files, SnapshotStore, restore

BEGUN = "begun"
FIDELITY_VARIABLE = "MLAGENT_FIDELITY"
FULL = "this machine cannot hold an experiment (is its disk full?)"
OUTCOMES = {
    "error": Outcome.SCRIPT_ERROR, "disk_full": Outcome.SCRIPT_ERROR,
    "timeout": Outcome.TIMEOUT, "out_of_memory": Outcome.OUT_OF_MEMORY,
}  # fmt: skip


class Runner(Protocol):
    """A way to get the result of an experiment; thread-safe."""

    name: str
    """Of the sandbox, for people."""

    @property
    def running(self) -> int:
        """Experiments that run now."""
        ...

    def run(self, task: Task, files: Files) -> Experiment:
        """Run the task's script with `files` (relative path → text, or what is kept) laid over the task's own; blocks.

        Raises:
            SandboxFailure: the sandbox failed, which says nothing about the files.
            AdmissionError: the task asks for more than this machine has.
        """
        ...

    def shell(self, task: Task, files: Files, command: str) -> Commands:
        """Run commands where the task's script would be run, with its limits; raises as `run`."""
        ...

    def resize(self, capacity: Capacity) -> None:
        """Change what experiments may use together."""
        ...

    def expect(self, tasks: Iterable[Task]) -> None:
        """Get ready for experiments of these tasks, as many as can run at once; returns at once."""
        ...

    def close(self) -> None:
        """End everything that was started."""
        ...


class SandboxRunner:
    """Runs each experiment for real, as soon as it fits."""

    def __init__(
        self, sandboxes: SandboxPool, capacity: Capacity, seed: int = 0, snapshots: SnapshotStore | None = None
    ):
        """seed: of the random numbers that every experiment starts with, so that a run can be repeated.

        snapshots: where the files that runs leave are kept, without which none are.
        """
        self._sandboxes, self._admission, self.seed = sandboxes, Admission(capacity), seed
        self._snapshots = snapshots
        self.name, self.image = sandboxes.name, sandboxes.image
        grading.process.start()
        self._relief = Relief(self._relieve)

    @property
    def running(self) -> int:
        return self._admission.running

    def run(self, task: Task, files: Files) -> Experiment:
        *_, experiment = self.begin(task, files)
        return experiment

    def shell(self, task: Task, files: Files, command: str) -> Commands:
        *_, commands = self.begin(task, files, command)
        return commands

    def begin(self, task: Task, files: Files, *command: str, **turn: Any) -> Iterator[Any]:
        """`BEGUN` as soon as it fits, and then what `run`, or with a command `shell`, gives.

        turn: as `Admission.admit` has it, and raises.
        """
        arrived = time.monotonic()
        attempt = self._shell if command else self._run
        name = f"{task.id}: shell" if command else f"{task.digest or task.id}@{task.fidelity:g}"
        with self._admission.admit(name, task.limits, **turn) as gpus:
            yield BEGUN
            try:
                result = attempt(task, files, *command, gpus, arrived)
            except SandboxFailure:
                result = attempt(task, files, *command, gpus, arrived)
        yield result

    def _shell(self, task: Task, files: Files, command: str, gpus: tuple[int, ...], asked: float) -> Commands:
        try:
            with self._sandboxes.acquire(task, gpus) as sandbox:
                begun = time.monotonic()
                self._restore(task, files, sandbox)
                restored = time.monotonic()
                result = sandbox.run([SHELL, "-c", _moved(task) + command], task.limits, _variables(task), self.seed)
                ended = result.status in ("ok", "error")
                kept, said = self._kept(task, files, sandbox) if ended else (None, "")
                found = leftovers.changes(sandbox.workspace, files, task) if ended else leftovers.NONE
        except OSError as error:
            raise SandboxFailure(f"{FULL}: {error}") from error
        outcome = Outcome.NEUTRAL if ended else OUTCOMES[result.status]
        log = _stopped(task, result.status, result.output)
        if ended and result.exit_code:
            log += f"\nexit code {result.exit_code}"
        log = f"{log}\n{said}" if said else log
        durations = Durations(begun - asked, restored - begun, result.seconds)
        return Commands(outcome, log, durations, result.peak_mb, *found, kept)

    def _run(self, task: Task, files: Files, gpus: tuple[int, ...], asked: float) -> Experiment:
        times = [asked]
        try:
            with self._sandboxes.acquire(task, gpus) as sandbox:
                times.append(time.monotonic())
                self._restore(task, files, sandbox)
                times.append(time.monotonic())
                result = sandbox.run(self.command(task), task.limits, _variables(task), self.seed)
                times.append(time.monotonic())
                outcome, score, withheld, findings = OUTCOMES.get(result.status), None, None, ()
                log, kept = result.output, None
                if outcome is None:
                    kept, said = self._kept(task, files, sandbox)
                    outcome, score, withheld, findings, log = self.graded(task, files, sandbox, log)
                    log = f"{log}\n{said}" if said else log
                times.append(time.monotonic())
        except OSError as error:
            raise SandboxFailure(f"{FULL}: {error}") from error
        queue, restored, _, graded = (after - before for before, after in itertools.pairwise(times))
        log = _stopped(task, result.status, log)
        milestones = (*result.milestones, *(MILESTONES[-1:] if score is not None else ()))
        durations = Durations(queue, restored, result.seconds, graded)
        finished = result.status == "ok"
        return Experiment(
            outcome, score, log, durations, result.peak_mb, milestones, finished, withheld=withheld, findings=findings,
            kept=kept,
        )  # fmt: skip

    def _restore(self, task: Task, files: Files, sandbox: Sandbox) -> None:
        restore(task, files, sandbox.workspace, self._snapshots.content if self._snapshots else None)

    def _kept(self, task: Task, files: Files, sandbox: Sandbox) -> tuple[tuple[tuple[str, Kept], ...] | None, str]:
        """What the task keeps of what lies in the workspace, and what is said of it."""
        if not (task.keep and self._snapshots):
            return None, ""
        return leftovers.kept(sandbox.workspace, task, files, self._snapshots.keep)

    def command(self, task: Task) -> list[str]:
        """The script that is run, and its arguments."""
        if not task.script.endswith(".sh"):
            return [task.script]
        return [SHELL, "-c", f"{_moved(task)}exec bash {shlex.quote(task.script)}"]

    def graded(
        self, task: Task, files: Files, sandbox: Sandbox, log: str
    ) -> tuple[Outcome, float | None, Withheld | None, Findings, str]:
        """What a script is worth that ended without an error, and what is said of it; log: what it printed."""
        if task.verifier:
            return self._verified(task, sandbox, log)
        return _graded(task, files, sandbox.workspace, log)

    def _verified(
        self, task: Task, acted: Sandbox, log: str
    ) -> tuple[Outcome, float | None, Withheld | None, Findings, str]:
        """What the task's tests say, in a sandbox of their own, of the files that there are in that of the script."""
        with self._sandboxes.acquire(task, acted.kind.gpus, verifies=True) as sandbox:
            try:
                score = verification.score(task, acted.workspace, sandbox, self.seed)
            except GradeError as reason:
                return Outcome.SCRIPT_ERROR, None, None, (), f"{log}\n{reason}"
        return Outcome.EDITED, score, Withheld(score, apart=False), (), log

    def resize(self, capacity: Capacity) -> None:
        self._admission.resize(capacity)

    def expect(self, tasks: Iterable[Task]) -> None:
        capacity = self._admission.capacity
        different = {
            (replace(task.limits, seconds=1.0), room_of(task, verifies))
            for task in tasks for verifies in ((False, True) if task.verifier else (False,))
        }  # fmt: skip
        self._sandboxes.expect({
            (limits, gpus, room): capacity.beside(limits, gpus)
            for limits, room in different for gpus in capacity.sets_of_gpus(limits.gpus)
        })  # fmt: skip

    def _relieve(self, lean: bool) -> None:
        self._admission.at_most(1 if lean else None)
        self._sandboxes.spare(lean)

    def close(self) -> None:
        self._relief.close()
        self._sandboxes.close()


def _variables(task: Task) -> dict[str, str]:
    return {FIDELITY_VARIABLE: f"{task.fidelity:g}", **dict(task.verifier.env if task.verifier else ())}


def _moved(task: Task) -> str:
    """What has commands begin where the task expects it."""
    return f"cd {shlex.quote(task.verifier.workdir)} || exit\n" if task.verifier else ""


def _stopped(task: Task, status: str, log: str) -> str:
    """The output of a run, with why it was stopped."""
    reasons = {
        "timeout": f"\nstopped after {task.limits.seconds:g} s",
        "disk_full": f"\nstopped: it wrote more than {task.limits.disk_mb} MiB, or too many files",
    }
    return log + reasons.get(status, "")


def _graded(
    task: Task, files: Files, workspace: Path, log: str
) -> tuple[Outcome, float | None, Withheld | None, Findings, str]:
    try:
        return Outcome.EDITED, *grade(task, workspace), log
    except GradeError as reason:
        explained = f"{log}\n{reason}"
        if isinstance(reason, GraderFailed) and _unchanged(task, files):
            explained += f"\nthis is the task's fault: its {task.script} is unchanged, so mend scripts/eval.py"
            explained += ", or state `parts: false` in task.yaml where it needs all answers" if task.parts else ""
        return Outcome.SCRIPT_ERROR, None, None, (), explained


def _unchanged(task: Task, files: Files) -> bool:
    """Whether all of these files are as the task has them."""
    own = {name: task.env_dir / name for name in files}
    return all(
        isinstance(text, str) and own[name].is_file() and own[name].read_text() == text for name, text in files.items()
    )
