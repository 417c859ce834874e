"""How a run that cannot go on tells its user why, where the logs are, and what goes on from there.

Invariants: what is no defect of ours ends as one reason in one line, whichever library it comes from; notes on the
error say the rest; what the run's processes wrote is kept in the run's folder (`Run.logs`), since Ray's own goes with
its head; a defect keeps its traceback.
"""

from __future__ import annotations

import contextlib
import shlex
import traceback
from collections.abc import Iterator
from pathlib import Path

import ray
from ray.exceptions import ObjectStoreFullError, OutOfMemoryError, RayError, RayTaskError

from envs.errors import FAILURES, UserError
from learner.config.midway import again
from learner.run.folder import Run

KEPT_BYTES = 1 << 20
"""Of each process's log: its end."""
LESS_MEMORY = "close other programs, or lower learner.row_tokens, actors.kv_cache_gb, actors.sequences or sandbox.warm"


class RunEnded(UserError):
    """What ended a run from outside; the message names the part and the reason."""


@contextlib.contextmanager
def told(run: Run) -> Iterator[None]:
    """Whatever ends the run within says how it is continued; what ends it from outside becomes `RunEnded`."""
    try:
        yield
    except Exception as error:
        reason = outside(error)
        ended = error if reason is None else RunEnded(reason)
        for note in notes(run):
            ended.add_note(note)
        if ended is error:
            raise
        raise ended from error
    except KeyboardInterrupt as interrupt:
        where = "from its last checkpoint" if _kept(run) else "with what it has"
        interrupt.add_note(f"{again(run.cfg)} goes on {where}")
        raise


def outside(error: Exception) -> str | None:
    """What happened to a run in one line, where the error is neither ours nor a defect; None otherwise."""
    if isinstance(error, (*FAILURES, RayTaskError)):
        return None
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if isinstance(error, MemoryError):
        return f"the driver is out of memory: {LESS_MEMORY}"
    if isinstance(error, OutOfMemoryError):
        return f"Ray ended a process of the run, since the memory of its node was used up: {LESS_MEMORY} ({first})"
    if isinstance(error, ObjectStoreFullError):
        return f"Ray's object store is full: start Ray with more --object-store-memory ({first})"
    return f"Ray lost a part of the run: {first}" if isinstance(error, RayError) else None


def notes(run: Run) -> list[str]:
    """Where to look, and what to type."""
    said = [f"logs: {run.logs}"]
    if kept := _kept(run):
        command = again(run.cfg)
        said.append(f"to go on from checkpoints/{kept}: {command} (make train ARGS={shlex.quote(command)})")
    return said


def _kept(run: Run) -> str:
    """The checkpoint that the run goes on from; empty where there is none."""
    names = [path.name for path in run.checkpoints]
    return names[-1] if names else "finetuning" * (run.dir / "checkpoints" / "finetuning").is_dir()


@contextlib.contextmanager
def kept_logs(folder: Path) -> Iterator[None]:
    """Where what is within fails, the traceback and the logs of this job's Ray workers on this node are in `folder`."""
    try:
        yield
    except Exception as error:
        with contextlib.suppress(OSError, AttributeError):  # a full disk, or another Ray: the failure itself matters
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "traceback.txt").write_text("".join(traceback.format_exception(error)))
            for file in worker_logs():
                (folder / file.name).write_bytes(_end_of(file))
        raise


def worker_logs() -> list[Path]:
    """What the workers of this job wrote on this node; nothing where Ray is not running."""
    if not ray.is_initialized():
        return []
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    mine = f":job_id:{ray.get_runtime_context().get_job_id()}".encode()  # Ray's first line in each
    return [file for file in sorted(logs.glob("worker-*")) if mine in file.open("rb").read(1 << 12)]


def _end_of(file: Path) -> bytes:
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - KEPT_BYTES))
        return opened.read()
