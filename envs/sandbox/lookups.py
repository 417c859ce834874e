"""Runs inside a sandbox, in the fork that becomes a task's tests: where these find programs, and what is read first.

The tests run in the folder that the policy wrote. Invariant: no program, no library and no shell's first file is looked
up there by a variable. Standard library only.
"""

import os

READ_FIRST = ("BASH_ENV", "ENV", "LD_PRELOAD", "LD_AUDIT")
"""Variables that name a file which is run in each program, or in each shell."""
LOOKED_UP = {"PATH": os.defpath, "LD_LIBRARY_PATH": ""}
"""Variables that name folders, and what they are where no folder is left."""


def distrust(*folders: str) -> None:
    """Have this process, and those that it starts, look up nothing in these folders."""
    for name in READ_FIRST:
        os.environ.pop(name, None)
    theirs = tuple(f"{seen}/" for folder in folders for seen in (folder, os.path.realpath(folder)))
    for name in LOOKED_UP.keys() & os.environ.keys():
        places = [place for place in os.environ[name].split(":") if place.startswith("/")]
        kept = [place for place in places if not f"{place}/".startswith(theirs)]
        kept = [place for place in kept if not f"{os.path.realpath(place)}/".startswith(theirs)]
        os.environ[name] = ":".join(kept) or LOOKED_UP[name]
