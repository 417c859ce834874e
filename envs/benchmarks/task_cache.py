"""Prepared tasks: folders that are made once and kept, in MLAGENT_CACHE or ~/.cache/mlagent.

Invariants: a folder is complete or absent; it is made once, however many processes ask.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from envs.benchmarks.task_file import TaskError
from envs.cache import cache_folder

DEADLINE = 3600.0
"""Seconds that one process waits for another that makes the same folder, and that making it may take."""


def folder() -> Path:
    """Where prepared tasks are."""
    return cache_folder() / "tasks"


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of that name in the cache; `make` fills it if it is not there.

    Raises:
        TaskError: the folder cannot be made; what `make` raises of its own passes through.
    """
    cache = folder()
    try:
        prepared = cache / name
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{prepared}.lock", timeout=DEADLINE):
            if not prepared.exists():
                partial = prepared.with_name(f"{name}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                make(partial)
                partial.rename(prepared)
    except Timeout as error:
        raise TaskError(f"{prepared}.lock: another process has prepared this task for {DEADLINE:.0f} s") from error
    except OSError as error:
        raise TaskError(f"task {name} cannot be prepared in {cache} (set MLAGENT_CACHE to move it): {error}") from error
    return prepared
