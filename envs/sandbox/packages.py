"""The packages that experiments may import: this environment's own, or those of a list (`installed`).

Here are the former, at this environment's versions on every backend. They are chosen by a text: the name of a set, or
`SET,PACKAGE,…` with more packages of this environment. Invariant: an experiment of a task finds none of the data sets
that packages bundle, since tasks, answers included, are made from them; a user's own script, which is no task, may.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envs.sandbox.base import SandboxFailure

SETS = {"base": ("numpy", "pandas", "scikit-learn"), "torch": ("numpy", "pandas", "scikit-learn", "torch")}
RUNNER_MB = {"base": 384, "torch": 1024}
"""Memory of a runner that has imported the set, on top of the experiment's."""
BUNDLED_DATA = ("sklearn/datasets/data", "sklearn/datasets/images", "sklearn/datasets/tests")
"""Folders below site-packages."""


class Packages(Protocol):
    """What a sandbox shows below one folder of packages."""

    in_image: bool
    """A Docker image is built with them; otherwise it is one without packages, and they are shown in it."""
    names: Sequence[str]
    """Those that were asked for."""
    runner_mb: int
    """MiB of memory of a runner, on top of the experiment's."""

    @property
    def pins(self) -> str:
        """Every package that is there, a line each, so that the same text means the same packages."""
        ...

    def shown(self, bundled_data: bool) -> list[tuple[str, Path | None]]:
        """(path below the folder of packages, what is shown there), None for emptiness over what an earlier one shows.

        bundled_data: with the data sets that they bundle.
        """
        ...


class OwnPackages:
    """Packages of this environment."""

    in_image = True

    def __init__(self, chosen: str = "base"):
        named, *more = chosen.split(",")
        self._more, self.names = more, (*SETS[named], *more)
        self.runner_mb = RUNNER_MB[named]

    @property
    def pins(self) -> str:
        """As lines for `pip install --no-deps -r`.

        Raises:
            SandboxFailure: one is not installed here.
        """
        return "".join(f"{name}=={found.version}\n" for name, found in sorted(self._distributions.items()))

    def shown(self, bundled_data: bool) -> list[tuple[str, Path | None]]:
        """The folders and modules of the packages, and of what they need, in this environment's site-packages."""
        tops = {
            Path(found.locate_file(file.parts[0]))
            for found in self._distributions.values()
            for file in found.files or ()
            if file.parts[0] not in ("..", "__pycache__")
        }
        hidden = [] if bundled_data else BUNDLED_DATA
        return [*((top.name, top) for top in sorted(tops)), *((folder, None) for folder in hidden)]

    @functools.cached_property
    def _distributions(self) -> dict[str, importlib.metadata.Distribution]:
        found: dict[str, importlib.metadata.Distribution] = {}
        wanted = [*self.names]
        while wanted:
            name = canonicalize_name(wanted.pop())
            if name in found:
                continue
            try:
                found[name] = importlib.metadata.distribution(name)
            except importlib.metadata.PackageNotFoundError as error:
                how = f"install it beside mlagent (`pip install {name}`)" if name in self._more else "run `make setup`"
                raise SandboxFailure(f"experiments need {name}, which is not installed: {how}") from error
            needed = [Requirement(line) for line in found[name].requires or ()]
            wanted += [item.name for item in needed if item.marker is None or item.marker.evaluate({"extra": ""})]
        return found
