"""Experiments that compute on a card, on each backend: they see the one they were given, and no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from envs.records import Limits
from envs.sandbox import SandboxFailure, SandboxPool
from envs.workspace import restore
from tests.sandbox_task import make_task

SCRIPT = "import torch\nprint(torch.cuda.device_count(), int(torch.ones(8, device='cuda').sum()))\n"
LIMITS = Limits(seconds=120, memory_mb=8192, disk_mb=512, processes=256, gpus=1)


@pytest.mark.parametrize("backend", ["process", "docker", "gvisor"])
def test_a_script_computes_on_its_card(backend: str, tmp_path: Path) -> None:
    try:
        pool = SandboxPool(backend, packages="torch")
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the {backend} sandbox is not to be had: {reason}")
    task = replace(make_task(tmp_path / "task"), limits=LIMITS)
    try:
        with pool.acquire(task, gpus=(0,)) as sandbox:
            restore(task, {task.script: SCRIPT}, sandbox.workspace)
            run = sandbox.run([task.script], task.limits)
    finally:
        pool.close()
    assert run.output == "1 8\n", run.output
