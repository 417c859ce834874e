"""MLAgentBench (arXiv 2310.03302): `mlagentbench:NAME` is a task of a clone, prepared as that benchmark does.

MLAGENTBENCH_DATA names the folder MLAgentBench/benchmarks of the clone. Metric and direction of the tasks below are
known; of any other, NAME.yaml beside its folder states them (docs/tasks.md). Invariants: the clone is never written
to; answers stay in scripts/, which no sandbox sees.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import yaml

from envs.benchmarks import links
from envs.benchmarks.competition import digest
from envs.benchmarks.content import files
from envs.benchmarks.task_cache import made_once
from envs.benchmarks.task_file import MLAGENTBENCH, MLAGENTBENCH_SECONDS, TaskError
from envs.records import Direction

DATA_VARIABLE = "MLAGENTBENCH_DATA"
CLONE = "git clone https://github.com/snap-stanford/MLAgentBench"
STATED = {
    **MLAGENTBENCH,
    "cifar10": ("accuracy", Direction.MAXIMIZE),
    "feedback": ("MCRMSE", Direction.MINIMIZE),
    "house-price": ("MAE", Direction.MINIMIZE),
    "ogbn-arxiv": ("accuracy", Direction.MAXIMIZE),
    "spaceship-titanic": ("accuracy", Direction.MAXIMIZE),
}
"""Metric and direction, as the ML-Agent paper has them. That a task is named here does not say that its script and
grader run with the packages at hand: envs/README.md says which do."""


def task_folder(name: str) -> Path:
    """The task's folder: a `TaskSource` (envs.benchmarks.sources).

    Raises:
        TaskError: there is no clone or no such task, or it is not prepared.
    """
    if not (base := os.environ.get(DATA_VARIABLE)):
        raise TaskError(
            f"mlagentbench:{name}: {DATA_VARIABLE} must name the folder MLAgentBench/benchmarks of a clone "
            f"({CLONE}), in which `python -m MLAgentBench.prepare_task {name}` was run"
        )
    folder = Path(base).expanduser() / name
    if not (folder / "env").is_dir():
        raise TaskError(f"mlagentbench:{name}: {folder}/env is missing: {DATA_VARIABLE} is not MLAgentBench/benchmarks")
    if (folder / "scripts/prepare.py").exists() and not (folder / "scripts/prepared").exists():
        raise TaskError(
            f"mlagentbench:{name}: {folder} is not prepared: run `python -m MLAgentBench.prepare_task {name}` in its "
            "clone (it asks for the data of Kaggle, or downloads it)"
        )
    if (folder / "task.yaml").exists() or folder.with_name(f"{name}.yaml").exists() or name not in STATED:
        return folder
    links.require_own(folder)

    def make(made: Path) -> None:
        shutil.copytree(folder, made)
        metric, direction = STATED[name]
        limits = {"seconds": MLAGENTBENCH_SECONDS, "cpus": 4.0, "memory_mb": 16384, "disk_mb": 16384}
        stated = {"metric": metric, "direction": str(direction), "actions": "mlagentbench", "limits": limits}
        (made / "task.yaml").write_text(yaml.safe_dump(stated, sort_keys=False))

    return made_once(f"{name}-{digest(__file__, (name,), files(folder), folder)}", make)
