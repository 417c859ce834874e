"""What came of each mutant, kept in a folder between runs.

A result counts for as long as nothing that made it has changed: the module, and the test that killed the mutant, or all
tests of the module where none did.
"""

from __future__ import annotations

import ast
import hashlib
import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.mutants.mutations import Mutant
from tests.mutants.targets import ROOT, Target


@dataclass(frozen=True)
class Result:
    outcome: str
    """`killed`, `survived` or `timeout`."""
    killer: str
    """The test that failed; empty where none did, or where the module could not even be imported."""
    seconds: float
    made_of: str
    """Digest of what made it."""


class Kept:
    """Results by a mutant's id; each is on the disk before the next."""

    def __init__(self, folder: Path):
        folder.mkdir(exist_ok=True)
        self.folder, self._lock = folder, threading.Lock()
        self._path = folder / "results.jsonl"
        self._results: dict[str, Result] = {}
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                name, result = json.loads(line)
                self._results[name] = Result(**result)
            self._path.write_text("".join(self._line(name) for name in self._results))

    def __enter__(self) -> Self:
        self._file = self._path.open("a", buffering=1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def _line(self, name: str) -> str:
        return json.dumps([name, asdict(self._results[name])]) + "\n"

    def add(self, mutant: Mutant, outcome: str, killer: str, seconds: float, made_of: str) -> None:
        with self._lock:
            self._results[mutant.id] = Result(outcome, killer, seconds, made_of)
            self._file.write(self._line(mutant.id))

    def last(self, mutant: Mutant) -> Result | None:
        """Whatever came of it last, also of other tests."""
        return self._results.get(mutant.id)

    def valid(self, mutant: Mutant, files: Files) -> Result | None:
        result = self.last(mutant)
        return result if result and result.made_of == files.digest(result.killer) else None


class Files:
    """A target's module and tests as they are now."""

    def __init__(self, target: Target):
        self._module = (ROOT / target.path).read_bytes()
        self._tests = {name: (ROOT / name).read_bytes() for name in target.tests}
        self._digests: dict[str, str] = {}

    def digest(self, killer: str) -> str:
        """Of the module and the test that killed, with what is beside the tests of its file, or of all tests where none
        did: a test that is added changes nothing for those that others killed."""
        file, _, name = killer.partition("::")
        name = name.partition("[")[0]
        known = f"{file}::{name}"
        if known not in self._digests:
            made_of = [_without_other_tests(self._tests.get(file, b""), name)] if file else list(self._tests.values())
            self._digests[known] = hashlib.sha256(b"\0".join([self._module, *made_of])).hexdigest()[:16]
        return self._digests[known]


def _without_other_tests(source: bytes, name: str) -> bytes:
    """name: of a function, or of a class and its method."""
    kept = [
        ast.dump(node)
        for node in ast.parse(source).body
        if not isinstance(node, ast.Import | ast.ImportFrom)
        and (not getattr(node, "name", "").lower().startswith("test") or node.name == name.partition("::")[0])
    ]
    return "\n".join(kept).encode()
