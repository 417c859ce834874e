"""`mlagent COMMAND …`: what the project can do under one name; each command is a door to the module that does it.

Invariant: only the chosen command is imported; its arguments and exit code pass through.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": ("learner.main", "train a model: python learner/main.py"),
    "rehearse": ("learner.rehearse", "run all of a training with stand-ins, in minutes: python learner/rehearse.py"),
    "evaluate": ("learner.evaluate", "evaluate checkpoints, models and endpoints: python learner/evaluate.py"),
    "solve": ("actors.solve", "put a trained agent to work on a task or a script: python actors/solve.py"),
    "doctor": ("cluster.doctor", "prove a set-up before it costs anything: python -m cluster.doctor"),
    "watch": ("learner.watch", "follow a run in a browser, while it lasts: python learner/watch.py"),
    "report": ("learner.report", "write the report of a run, or compare several: python learner/report.py"),
    "rescore": ("learner.rescore", "apply another reward to a run's transitions: python learner/rescore.py"),
    "clean": ("learner.clean", "say what runs keep on disk, and delete what may go: python learner/clean.py"),
    "tasks": ("envs.__main__", "list, check, write and try tasks: python -m envs"),
    "scale": ("cluster.scale", "change the number of actors of a running job: python -m cluster.scale"),
}
USAGE = """usage: mlagent COMMAND [argument ...]

{commands}

`mlagent COMMAND --help` has the rest. `make train` starts Ray, submits `train` as a job with the quickstart's settings,
and shows it.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command's exit code; 2 where there is no such command, 130 where it was interrupted."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name == "--version":
        print(f"mlagent {importlib.metadata.version('mlagent')}")
        return 0
    if name in ("-h", "--help"):
        print(USAGE.format(commands="\n".join(f"  {command:9} {about}" for command, (_, about) in COMMANDS.items())))
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(COMMANDS)}"
        print(f"error: mlagent has no command {name}: {hint}", file=sys.stderr)
        return 2
    try:
        return importlib.import_module(COMMANDS[name][0]).main(rest)
    except KeyboardInterrupt:  # while it is imported, or of one that has nothing to say about it
        return 130
