"""Takes a key away from one place that reads it at a time: does a case of `test_every_key` notice?

    python -m tests.cut_wires [KEY ...]

A wire is a function of the product that reads the key; cut, it gets what the case has without its change. Prints a line
for each, and how many were noticed; a function that reads a key for a message only is none that could be.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from learner.config.load import load
from tests import whole_run
from tests.contract.learner.config.cases import CASES, Bench, Case, unmoved

ROOT = Path(__file__).parents[1]
READERS = ("learner", "actors", "envs", "reward")
OTHERS = ("learner/config/", "learner/run/preflight.py", "learner/run/cards.py")
"""Read the configuration before a run, and have tests of their own."""


@contextlib.contextmanager
def wires(key: str, cut: str = "", value: Any = None) -> Iterator[set[str]]:
    """The functions that read the key within, as `file function`; the one to be cut gets the value instead."""
    section, _, name = key.partition(".")
    reads: set[str] = set()
    originals = {method: getattr(DictConfig, method) for method in ("__getattr__", "__getitem__")}

    def watched(method: str) -> Any:
        def get(config: DictConfig, asked: Any) -> Any:
            found = originals[method](config, asked)
            if asked == name and config._key() == section:
                code = sys._getframe(1).f_code
                with contextlib.suppress(ValueError):
                    file = Path(code.co_filename).relative_to(ROOT)
                    if file.parts[0] in READERS and not str(file).startswith(OTHERS):
                        reads.add(wire := f"{file} {code.co_qualname}")
                        return value if wire == cut else found
            return found

        return get

    for method in originals:
        setattr(DictConfig, method, watched(method))
    try:
        yield reads
    finally:
        for method, original in originals.items():
            setattr(DictConfig, method, original)


def noticed(bench: Bench, of: Case, wire: str) -> bool:
    """Whether the case fails where the wire is cut."""
    value = OmegaConf.select(load([*whole_run.BASE, *bench.arguments(of)]), of.key)
    with wires(of.key, wire, value):
        try:
            return bool(unmoved(bench.without(of), bench.with_change_anew(of), of))
        except Exception:
            return True


def main(keys: list[str]) -> None:
    os.environ["MY_KEY"] = "secret"
    count = {True: 0, False: 0}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for key in keys or sorted({of.key for of in CASES}):
            known: dict[str, bool] = {}
            for of in (of for of in CASES if of.key == key):
                bench.without(of)
                with wires(key) as reads:
                    bench.with_change_anew(of)
                for wire in sorted(reads):
                    known[wire] = known.get(wire) or noticed(bench, of, wire)
            for wire, seen in known.items():
                count[seen] += 1
                print("noticed    " if seen else "NOT NOTICED", key, wire, flush=True)
    print(f"{count[True]} of {sum(count.values())} cut wires were noticed")


if __name__ == "__main__":
    main(sys.argv[1:])
