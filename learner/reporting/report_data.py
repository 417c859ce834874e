"""What a run has left in its folder, read once for its views.

Invariants: reading needs no cluster and no model library; a run that stopped early is read as far as it came.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf

from envs.errors import UserError
from learner.config.schema import ReportConfig
from learner.evaluation import evaluation
from learner.run import journal, status, transitions

COUNTED = ("prompt_ids", "response_ids")
COLUMNS = ("step", "group_id", "task_id", *COUNTED, "execute_seconds", "origin")


class ReportError(UserError):
    """A folder that no report can be made of; the message names it, or the file in it."""


@dataclass(frozen=True)
class RunData:
    """A run as its folder tells of it."""

    dir: Path
    config: Mapping[str, Any]
    about: Mapping[str, Any] | None
    """Versions, machine and actors; None before the actors have started."""
    status: status.Status | None
    results: Mapping[str, Any]
    """The content of `evaluation.json`."""
    agents: Mapping[str, Any] | None
    """What `learner/evaluate.py RUN` wrote: its policy beside other agents."""
    finetuning: list[dict[str, Any]]
    """A row of `finetune.jsonl` per optimiser step."""
    kept_back: Mapping[str, Any]
    """The content of `finetune.json`: the loss on examples that were kept back, before and after."""
    rows: list[dict[str, Any]]
    """A row of the journal per learner step."""
    moves: list[dict[str, Any]]
    """`COLUMNS` of each transition, with the lengths of `COUNTED` in place of the tokens."""
    expert: list[dict[str, Any]]
    """`task`, `execute` (seconds) and `origin` of each action of the expert."""

    @property
    def name(self) -> str:
        return self.dir.name

    @property
    def prices(self) -> dict[str, Any]:
        """The `report` section of the configuration."""
        return {**asdict(ReportConfig()), **self.config.get("report", {})}

    @property
    def stages(self) -> list[str]:
        """Those that were evaluated, in order."""
        tasks = self.results["tasks"]
        return [stage for stage in evaluation.STAGES if any(stage in task["stages"] for task in tasks)]

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Wall-clock seconds of each stage; learner steps of all processes, other stages of the last one."""
        seconds = {"reinforce": sum(row["seconds"] for row in self.rows)} if self.rows else {}
        for stage in self.status.stages if self.status else ():
            if stage.name not in seconds:
                seconds[stage.name] = (stage.ended or self.status.written) - stage.started
        return seconds


def load(run_dir: Path) -> RunData:
    """
    Raises:
        ReportError: the folder holds no run, or a damaged file.
    """
    run_dir = Path(run_dir).resolve()
    if not (run_dir / "config.yaml").exists():
        raise ReportError(f"{run_dir} holds no run (no config.yaml): give a run's folder, as runs/quickstart")
    file = run_dir / "status.json"
    try:
        return RunData(
            dir=run_dir,
            config=OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml")),
            about=_json(run_dir / "about.json"),
            status=status.of(run_dir),
            results=results(run_dir),
            agents=_json(run_dir / "evaluation/evaluation.json"),
            **dict(zip(("finetuning", "kept_back"), finetuning(run_dir), strict=True)),
            rows=journal.read(run_dir),
            moves=list(transitions.read(run_dir, COLUMNS, COUNTED)),
            expert=_expert(run_dir / "trajectories.parquet"),
        )
    except msgspec.DecodeError as error:
        raise ReportError(f"{file} is damaged: {error}") from error
    except ValueError as error:
        raise ReportError(str(error)) from error


def results(run_dir: Path) -> dict[str, Any]:
    """The content of `evaluation.json`. Raises ValueError where it is damaged."""
    return _json(run_dir / "evaluation.json") or {"tasks": [], "splits": {}}


def finetuning(run_dir: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """As `RunData.finetuning` and `RunData.kept_back`. Raises ValueError where a file is damaged."""
    return _lines(run_dir / "finetune.jsonl"), _json(run_dir / "finetune.json") or {}


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text()) if file.exists() else None
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def _lines(file: Path) -> list[dict[str, Any]]:
    try:
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]  # the last may be in the middle of writing
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def _expert(file: Path) -> list[dict[str, Any]]:
    try:
        return pq.read_table(file, columns=["task", "execute", "origin"]).to_pylist() if file.exists() else []
    except pa.ArrowException as error:
        raise ValueError(f"{file} is damaged: {error}") from error
