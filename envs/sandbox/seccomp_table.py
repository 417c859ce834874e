"""Prints the system calls that `seccomp` lets through: `python -m envs.sandbox.seccomp_table default.json`.

default.json is Docker's default profile, seccomp/default.json of https://github.com/moby/profiles. Numbers of system
calls come from libseccomp (`pip install pyseccomp`). What Docker allows with capabilities is left out, since there
are none, and so is what `seccomp` decides by arguments.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable
from pathlib import Path

QUEUES = ("mq_open", "mq_unlink", "mq_timedsend", "mq_timedreceive", "mq_notify", "mq_getsetattr")

BY_ARGUMENTS = {"clone", "clone3", "personality", "prlimit64", "socket"}


def main(profile: str) -> None:
    import pyseccomp

    for machine, arch, docker in (
        ("x86_64", pyseccomp.Arch.X86_64, "amd64"),
        ("aarch64", pyseccomp.Arch.AARCH64, "arm64"),
    ):
        numbers = (
            pyseccomp.resolve_syscall(arch, name) for name in allowed(json.loads(Path(profile).read_text()), docker)
        )
        print(f"    {machine!r}: {ranges(number for number in numbers if number >= 0)!r},")


def allowed(profile: dict, arch: str) -> set[str]:
    """Names that it allows whatever the arguments, without capabilities."""
    names: set[str] = set()
    for rule in profile["syscalls"]:
        includes = rule.get("includes") or {}
        plain = rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args") and not includes.get("caps")
        if plain and arch in includes.get("arches", [arch]):
            names |= set(rule["names"])
    return names - BY_ARGUMENTS - set(QUEUES)


def ranges(numbers: Iterable[int]) -> str:
    """As `0-12 14 16-18`."""
    runs = itertools.groupby(enumerate(sorted(set(numbers))), lambda pair: pair[1] - pair[0])
    ends = [[number for _, number in run] for _, run in runs]
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in ends)


if __name__ == "__main__":
    main(sys.argv[1])
