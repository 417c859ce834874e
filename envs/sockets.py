"""Sockets: parts of a run that are named by import path, `package.module:Name`, so that nobody edits this project.

Each socket is defined where its part belongs (`reward`, `learner.algorithm.algorithms`, `envs.benchmarks.sources`;
docs/extend.md shows all three), and takes what comes with the project through the same door. Invariant: whatever is
wrong with a part from outside is a `SocketError` that names key and path, and says what to do.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import re
import sys
from collections.abc import Iterator
from typing import Any

from envs.errors import UserError

PATH = re.compile(r"[^\W\d]\w*(\.\w+)*:[^\W\d]\w*")


class SocketError(UserError):
    """What an import path names cannot be used; the message says why."""


def imported(path: str, named_by: str) -> Any:
    """What `package.module:Name` names; modules of the current folder are found as well, after all others.

    named_by: how a message calls it, such as `reward.version=my_rewards:mine`.

    Raises:
        SocketError: it is no import path, or the import fails.
    """
    if not PATH.fullmatch(path):
        raise SocketError(f"{named_by} is no import path: write package.module:Name")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    try:
        return pkgutil.resolve_name(path)
    except Exception as error:  # a module may raise whatever it likes
        remedy = ""
        if isinstance(error, ModuleNotFoundError):
            remedy = ": its module must be on PYTHONPATH, of every node, or in the folder where the command is run"
        raise SocketError(f"{named_by} cannot be imported ({type(error).__name__}: {error}){remedy}") from error


@contextlib.contextmanager
def tried(named_by: str) -> Iterator[None]:
    """Whatever a part from outside raises inside becomes a SocketError."""
    try:
        yield
    except SocketError:
        raise
    except Exception as error:
        raise SocketError(
            f"{named_by} fails on a sample: {type(error).__name__}: {error} (docs/extend.md has its signature)"
        ) from error
