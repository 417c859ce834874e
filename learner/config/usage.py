"""How a command shows its own help, and refuses to start by being called without arguments."""

from __future__ import annotations

import sys
from collections.abc import Sequence

HELP = {"-h", "--help"}
KEYS = "`python learner/main.py --help` lists every key with its type and default."


def answered(arguments: Sequence[str], usage: str) -> int | None:
    """The exit code of a command that was only asked for help (0) or given nothing to do (2); None otherwise.

    usage: what the command says of itself, its first line how it is called.
    """
    if HELP & set(arguments):
        print(usage.strip())
        return 0
    if not arguments:
        print("error: say what is to be done, at least a configuration, such as config=quickstart", file=sys.stderr)
        print(usage.strip(), file=sys.stderr)
        return 2
    return None
