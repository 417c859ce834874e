"""What runs keep on disk, and what of it may go: `python learner/clean.py RUN … [--yes]`.

Invariants: without `--yes` nothing is deleted; of a run that a process has, nothing ever; what can be looked at, loaded
or compared stays (models, figures, transitions, reports, logs, the cache of experiments), so that what goes is only
what a run would go on from.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from envs.errors import FAILURES, UserError
from learner.config.load import RECORD
from learner.run import status

RESUMING = {
    "checkpoints/*/state": "optimiser and weights that a checkpoint resumes from (its model stays in hf/)",
    "checkpoints/finetuning": "what an interrupted fine-tuning goes on from",
    "checkpoints/.partial-*": "checkpoints that were not written to their end",
    "reference": "the fine-tuned policy, for rl.kl",
    "snapshots": "workspaces of the state pool; another run's experts.path reads them, too",
    "attempts": "evaluations that an interrupted one goes on from",
}
"""What only a run that goes on needs, by pattern."""
KEPT = {
    "checkpoints/*/hf": "models to load",
    "checkpoints/*/adapter": "adapters to load",
    "experiments": "the cache of experiments",
    "transitions": "what was trained on, and the attempts of evaluations",
    "logs": "of each start",
}
OTHERS = "figures, reports and what else there is"


class CleanError(UserError):
    """A run that nothing can be deleted of; the message says why."""


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0, 1 where a folder is no run or a process has it."""
    parser = argparse.ArgumentParser(
        prog="python learner/clean.py",
        description="Say what runs keep on disk; with --yes delete what only run.resume=true and experts.path need.",
    )
    parser.add_argument("run", nargs="+", type=Path, help="a run's folder, as runs/quickstart")
    gone = "delete it: the runs cannot be resumed any more, nor be experts.path"
    parser.add_argument("--yes", action="store_true", help=gone)
    options = parser.parse_args(arguments)
    console = Console()
    try:
        for run_dir in options.run:
            if not (run_dir / RECORD).is_file():
                raise CleanError(f"{run_dir} holds no run (no {RECORD}): give a run's folder, as runs/quickstart")
            if status.owned(run_dir):
                raise CleanError(f"{run_dir} is in use by another process: wait for it")
        for run_dir in options.run:
            console.print(table(run_dir))
            if options.yes:
                clean(run_dir)
    except FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not options.yes:
        console.print("Nothing was deleted; --yes deletes what is marked.")
    return 0


def clean(run_dir: Path) -> None:
    """Delete what only a resumed run needs."""
    for pattern in RESUMING:
        for path in run_dir.glob(pattern):
            if not (path.parent.is_symlink() or path.is_symlink()):  # checkpoints/best leads to another
                shutil.rmtree(path)


def table(run_dir: Path) -> Table:
    """What the run keeps, the largest first; what may go is marked."""
    sizes = {pattern: size(run_dir, pattern) for pattern in (*RESUMING, *KEPT)}
    rows = [(sizes[pattern], pattern, about, pattern in RESUMING) for pattern, about in (RESUMING | KEPT).items()]
    rows.append((size(run_dir, "*") - sum(sizes.values()), "", OTHERS, False))
    view = Table("", "MiB", "of the run", "what it is", box=box.SIMPLE, title=str(run_dir), title_justify="left")
    for bytes, pattern, about, goes in sorted(rows, reverse=True):
        if bytes:
            view.add_row("may go" if goes else "", f"{bytes / 2**20:,.1f}", pattern, about)
    return view


def size(run_dir: Path, pattern: str) -> int:
    """Bytes of the files below what the pattern finds; what is linked to counts where it is."""
    found = (path for path in run_dir.glob(pattern) if not path.parent.is_symlink() and not path.is_symlink())
    files = (file for path in found for file in ([path] if path.is_file() else path.rglob("*")))
    return sum(file.lstat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
