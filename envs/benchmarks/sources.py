"""Task sources: `SOURCE:NAME` is a task of other people's benchmark, and the socket for those (docs/extend.md).

SOURCE is `mlebench`, or the import path `package.module:Name` of a `TaskSource`; all are taken by one door,
`folder_of`. Invariant: a source is imported only where one of its tasks is asked for.
"""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path
from typing import Protocol

from envs.benchmarks.task_file import TaskError
from envs.sockets import PATH, SocketError, imported

SOURCES = {
    "mlebench": "envs.benchmarks.mlebench:task_folder",
    "mlagentbench": "envs.benchmarks.mlagentbench:task_folder",
    "harbor": "envs.benchmarks.harbor:task_folder",
    **{name: f"envs.benchmarks.packages:{name}" for name in ("openmle", "mledojo", "sandmle")},
}
NAMED = re.compile(rf"({'|'.join(SOURCES)}|{PATH.pattern}):(?P<task>.+)")


class TaskSource(Protocol):
    """Resolves the names of a benchmark's tasks to folders."""

    def __call__(self, name: str) -> Path:
        """The folder of the task of that name, in the format of `envs.benchmarks.loader`.

        It is copied and prepared as any other, unless `envs.benchmarks.task_cache.made_once` has filled it: then it is
        complete. Raises TaskError where the task cannot be had.
        """


def split(name: str) -> tuple[str, str] | None:
    """(source, name of the task there); None where no source is named."""
    match = NAMED.fullmatch(name)
    return (match[1], match["task"]) if match else None


def folder_of(source: str, name: str) -> Path:
    """The folder of a source's task.

    Raises:
        TaskError: the source cannot be used, or has no such task.
    """
    try:
        folder = _source(source, f"task {name}")(name)
    except SocketError as error:
        raise TaskError(str(error)) from error
    if not isinstance(folder, str | os.PathLike) or not Path(folder).is_dir():
        raise TaskError(f"task {name}: source {source} must return its folder, not {folder!r}")
    return Path(folder).resolve()


def check(name: str, named_by: str) -> None:
    """Import the source of a task and look at its signature; named_by: how a message calls it.

    Raises:
        SocketError: it cannot be used.
    """
    named = split(name)
    if named and named[0] not in SOURCES:
        _source(named[0], named_by)


def _source(source: str, named_by: str) -> TaskSource:
    function = imported(SOURCES.get(source, source), f"{named_by}: source {source}")
    try:
        inspect.signature(function).bind("name")
    except TypeError as error:
        raise SocketError(f"{named_by}: source {source} must take the name of a task ({error})") from error
    return function
