"""The packages that experiments may import, at this environment's versions on every backend.

They are chosen by a text: the name of a set, or `SET,PACKAGE,…` with more packages of this environment. Invariant: an
experiment of a task finds none of the data sets that packages bundle, since tasks, answers included, are made from
them; a user's own script, which is no task, may.
"""

from __future__ import annotations

import functools
import importlib.metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envs.sandbox.base import SandboxFailure

SETS = {"base": ("numpy", "pandas", "scikit-learn"), "torch": ("numpy", "pandas", "scikit-learn", "torch")}
RUNNER_MB = {"base": 384, "torch": 1024}
"""Memory of a runner that has imported the set, on top of the experiment's."""
BUNDLED_DATA = ("sklearn/datasets/data", "sklearn/datasets/images", "sklearn/datasets/tests")
"""Folders below site-packages."""


def requirements(chosen: str) -> str:
    """The chosen packages and what they need, pinned, as lines for `pip install --no-deps -r`."""
    return "".join(f"{name}=={found.version}\n" for name, found in sorted(_distributions(chosen).items()))


def runner_mb(chosen: str) -> int:
    """MiB of memory of a runner, on top of the experiment's."""
    return RUNNER_MB[chosen.partition(",")[0]]


def locations(chosen: str) -> list[Path]:
    """The folders and modules of the packages, and of what they need, in this environment's site-packages."""
    tops = {
        Path(found.locate_file(file.parts[0]))
        for found in _distributions(chosen).values()
        for file in found.files or ()
        if file.parts[0] not in ("..", "__pycache__")
    }
    return sorted(tops)


@functools.cache
def _distributions(chosen: str) -> dict[str, importlib.metadata.Distribution]:
    found: dict[str, importlib.metadata.Distribution] = {}
    named, *more = chosen.split(",")
    wanted = [*SETS[named], *more]
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            how = f"install it beside mlagent (`pip install {name}`)" if name in more else "run `make setup`"
            raise SandboxFailure(f"experiments need {name}, which is not installed: {how}") from error
        needed = [Requirement(line) for line in found[name].requires or ()]
        wanted += [item.name for item in needed if item.marker is None or item.marker.evaluate({"extra": ""})]
    return found
