"""The warm start: expert trajectories become fine-tuning examples and the state pool.

The built-in expert tries randomly chosen ideas on the held-in tasks, for real. What it did well is imitated
(exploration-enriched fine-tuning, arXiv 2505.23723), and every state it passed through, errors included, can be
drawn by step-wise RL.

Invariants: an action that failed is never imitated, the action that repaired it is; distinct actions only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from envs.records import Outcome, State, StepResult, Task

Trajectory = Sequence[tuple[State, str, StepResult]]
"""(state, action text, what the environment answered), in order."""


def kind(state: State, task: Task, path: Trajectory) -> str:
    """`initial`, `error` (its last run failed), `plateau` (two runs without gain) or `middle`."""
    if not state.history:
        return "initial"
    if state.score is None:
        return "error"
    recent = [r for _, _, r in path][-2:]
    stuck = len(recent) == 2 and not any(improved(r, task) for r in recent)
    return "plateau" if stuck else "middle"


def improved(result: StepResult, task: Task) -> bool:
    """Whether the action left a better score than it found."""
    if result.score_after is None or result.score_before is None:
        return False
    return task.direction.sign * (result.score_after - result.score_before) > 0


def states(trajectories: Iterable[Trajectory], tasks: Mapping[str, Task]) -> list[State]:
    """Every state an action was taken from, with its kind."""
    return [
        replace(state, kind=kind(state, tasks[state.task_id], trajectory[:i]))
        for trajectory in trajectories
        for i, (state, _, _) in enumerate(trajectory)
    ]


def worth_imitating(trajectories: Iterable[Trajectory], tasks: Mapping[str, Task]) -> list[tuple[State, str]]:
    """Distinct (state, action text) whose edit ran and improved the score, or repaired a broken script."""
    chosen: dict[tuple[str, str, str], tuple[State, str]] = {}
    for trajectory in trajectories:
        for state, text, result in trajectory:
            repaired = state.score is None and bool(state.history) and result.score_after is not None
            if result.outcome is Outcome.EDITED and (repaired or improved(result, tasks[state.task_id])):
                chosen.setdefault((state.task_id, state.snapshot, text), (state, text))
    return list(chosen.values())


def save(trajectories: Iterable[Trajectory], file: Path) -> None:
    """One Parquet row per expert action, failed ones included."""
    rows = [
        {
            "trajectory": number,
            "step": step,
            "task": state.task_id,
            "state": state.id,
            "snapshot": state.snapshot,
            "action": text,
            "kind": result.action,
            "outcome": str(result.outcome),
            "score_before": result.score_before,
            "score_after": result.score_after,
            "log_tail": result.log_tail,
            "milestones": list(result.milestones),
            "peak_mb": result.peak_mb,
            "origin": str(result.origin),
            **asdict(result.durations),
        }
        for number, trajectory in enumerate(trajectories)
        for step, (state, text, result) in enumerate(trajectory)
    ]
    partial = file.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(rows), partial)
    partial.replace(file)
