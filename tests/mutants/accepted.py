"""Survivors that no test can or should notice, each with its reason: `accepted.yaml`.

An entry is stale, and fails, where no mutant is of that name any more, or where a test notices it by now.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.mutants.mutations import Mutant

FILE = Path(__file__).with_name("accepted.yaml")


@dataclass(frozen=True)
class Accepted:
    path: str
    where: str
    change: str
    because: str

    def is_of(self, mutant: Mutant) -> bool:
        return (self.path, self.where, self.change) == (mutant.path, mutant.where, mutant.change)


def accepted(file: Path = FILE) -> list[Accepted]:
    """Every entry of the file: a list of `in` (`path::where`), `because` and `changes`, which share the reason."""
    entries = []
    for group in yaml.safe_load(file.read_text()) or []:
        path, _, where = group["in"].partition("::")
        reason = " ".join(group["because"].split())
        entries += [Accepted(path, where, change.strip(), reason) for change in group["changes"]]
    return entries
