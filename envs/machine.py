"""What this machine has for us, or the container that we are in: its cores and its memory.

Invariant: a limit of the container's control group (v1 or v2) counts where it is below what the hardware has.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")


def cores(cgroups: Path = CGROUPS) -> float:
    """Cores that may be used, a share of one included."""
    usable = float(len(os.sched_getaffinity(0)))
    v1 = cgroups / "cpu"
    stated = _words(cgroups / "cpu.max") or [*_words(v1 / "cpu.cfs_quota_us"), *_words(v1 / "cpu.cfs_period_us")]
    if len(stated) == 2 and stated[0].isdigit():  # otherwise `max`, or -1
        return min(usable, int(stated[0]) / int(stated[1]))
    return usable


def memory_mb(cgroups: Path = CGROUPS) -> float:
    """MiB of memory that may be used."""
    stated = _words(cgroups / "memory.max") or _words(cgroups / "memory" / "memory.limit_in_bytes")
    limits = [int(word) for word in stated if word.isdigit()]
    return min([psutil.virtual_memory().total, *limits]) / 2**20


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
