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


def free_mb(cgroups: Path = CGROUPS) -> float:
    """MiB of memory that are free: of this machine, or of the container where that has less."""
    free = [psutil.virtual_memory().available / 2**20]
    for folder, limit, usage in (
        (cgroups, "memory.max", "memory.current"),
        (cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        words = [*_words(folder / limit), *_words(folder / usage)]
        if len(words) == 2 and all(word.isdigit() for word in words):
            statistics = _words(folder / "memory.stat")
            named = dict(zip(statistics[::2], statistics[1::2], strict=False))
            reclaimable = int(named.get("total_inactive_file") or named.get("inactive_file") or 0)
            free.append((int(words[0]) - int(words[1]) + reclaimable) / 2**20)
    return max(0.0, min(free))


def used_share() -> float:
    """Of the memory that may be used, what is, in [0, 1]."""
    return 1.0 - free_mb() / memory_mb()


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
