"""`make mutants`: change the code that matters most in small ways, one at a time, and see whether a test notices.

`python -m tests.mutants [PART …] [--jobs N]`: of the modules whose path contains one of the parts, or of all. What came
out is kept in `.mutants/`, so that an interrupted run goes on, and only what changed is tried again. Exit code 1: tests
fail as they are, fewer are noticed than the goal, or an accepted survivor is stale.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.mutants.accepted import accepted
from tests.mutants.kept import Kept
from tests.mutants.mutations import mutants
from tests.mutants.report import summary
from tests.mutants.running import TestsFail, run
from tests.mutants.targets import ROOT, TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="modules whose path contains it; default: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once; default: a core each")
    arguments = parser.parse_args()
    targets = [t for t in TARGETS if not arguments.parts or any(part in t.path for part in arguments.parts)]
    if not targets:
        parser.error(f"no module to mutate has {' or '.join(arguments.parts)} in its path")
    console, broken = Console(), []
    with Kept(ROOT / ".mutants") as kept, Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    ) as progress:  # fmt: skip

        def one(target):
            todo = mutants(target.path, (ROOT / target.path).read_text())
            shown = progress.add_task(target.path, total=len(todo))
            try:
                for _ in run(target, todo, kept):
                    progress.advance(shown)
            except TestsFail as error:
                broken.append(str(error))
            return target, todo

        threads = ThreadPoolExecutor(arguments.jobs)
        try:
            tried = list(threads.map(one, targets))
        finally:
            threads.shutdown(cancel_futures=True)  # after Ctrl-C, which ends the workers as well
        return summary(console, tried, kept, accepted(), broken)


if __name__ == "__main__":
    sys.exit(main())
