"""Runs a target's mutants in a worker of its own (`worker.py`), in a copy of the project."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.mutants.kept import Files, Kept
from tests.mutants.mutations import Mutant
from tests.mutants.targets import ROOT, Target

LEFT_OUT = shutil.ignore_patterns(".*", "runs", "solved", "*.egg-info")


class TestsFail(RuntimeError):
    """No mutant can be judged: the tests fail on the module as it is."""

    __test__ = False


def run(target: Target, mutants: Sequence[Mutant], kept: Kept) -> Iterator[Mutant]:
    """Yields each mutant once its result is kept.

    Raises:
        TestsFail: the tests fail without any change.
    """
    files = Files(target)
    todo = {mutant.id: mutant for mutant in mutants if not kept.valid(mutant, files)}
    yield from (mutant for mutant in mutants if mutant.id not in todo)
    if not todo:
        return
    job = {"path": target.path, "tests": target.tests, "mutants": [_sent(mutant, kept) for mutant in todo.values()]}
    log = kept.folder / f"{target.path.replace('/', '.')}.log"
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder, log.open("w") as errors:
        copy = Path(folder) / "project"
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
        environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "TMPDIR": folder}
        with subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.worker"], cwd=copy, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        ) as worker:  # fmt: skip
            worker.stdin.write(json.dumps(job))
            worker.stdin.close()
            for line in worker.stdout:
                answer = json.loads(line)
                if "error" in answer:
                    raise TestsFail(f"{target.path}: without a change fails {answer['error']}")
                mutant = todo.pop(answer.pop("id"))
                kept.add(mutant, **answer, made_of=files.digest(answer["killer"]))
                yield mutant
    if todo:
        raise TestsFail(f"{target.path}: the worker ended with {worker.returncode}, see {log}")


def _sent(mutant: Mutant, kept: Kept) -> dict[str, object]:
    last = kept.last(mutant)
    return {
        "id": mutant.id,
        "source": mutant.source,
        "lines": [mutant.lines.start, mutant.lines.stop],
        "at_import": mutant.at_import,
        "killer": last.killer if last else "",
    }
