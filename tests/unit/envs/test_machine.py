"""Cores and memory in containers with limits and without, under both versions of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from envs.machine import cores, memory_mb

HAVE = len(os.sched_getaffinity(0)), psutil.virtual_memory().total / 2**20


def groups(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
    return folder


V1 = {"cpu/cpu.cfs_period_us": "100000", "cpu/cpu.cfs_quota_us": "50000", "memory/memory.limit_in_bytes": str(1 << 30)}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, HAVE),
        ({"cpu.max": "max 100000", "memory.max": "max"}, HAVE),
        ({"cpu.max": "50000 100000", "memory.max": str(1 << 30)}, (0.5, 1024)),
        ({"cpu.max": "99900000 100000", "memory.max": str(1 << 50)}, HAVE),
        (V1, (0.5, 1024)),
        (V1 | {"cpu/cpu.cfs_quota_us": "-1", "memory/memory.limit_in_bytes": str((1 << 63) - 4096)}, HAVE),
    ],
    ids=["no groups", "v2 unlimited", "v2", "v2 above the hardware", "v1", "v1 unlimited"],
)
def test_the_lower_of_hardware_and_limit_counts(files, expected, tmp_path):
    found = groups(tmp_path, files)
    assert (cores(found), memory_mb(found)) == pytest.approx(expected)
