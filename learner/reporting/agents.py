"""What agents tried in `mlagent evaluate RUN`, as rows of the trajectory browser.

In: `RUN/evaluation/attempts.jsonl`, a line per attempt (`actors.attempts.Attempt`). Invariants: rows have the columns
of `learner.run.transitions` that the browser reads, nothing where an attempt has no such thing; a line that is being
written is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PREFIX = "agent "
"""How the name of a part begins that is an agent's."""
PARTS = ("queue", "restore", "execute", "grade")


def path(run_dir: Path) -> Path:
    return Path(run_dir) / "evaluation" / "attempts.jsonl"


def parts(run_dir: Path) -> list[str]:
    """A part for each agent, in the order in which they were tried. Raises ValueError where the file is damaged."""
    return list(dict.fromkeys(f"{PREFIX}{attempt['agent']}" for attempt in _attempts(run_dir)))


def read(run_dir: Path, part: str) -> list[dict[str, Any]]:
    """A row for each action of that agent. Raises ValueError where the file is damaged."""
    mine = (attempt for attempt in _attempts(run_dir) if f"{PREFIX}{attempt['agent']}" == part)
    return [_row(part, attempt, number, of) for attempt in mine for number, of in enumerate(attempt["tried"])]


def _attempts(run_dir: Path) -> Iterator[dict[str, Any]]:
    file = path(run_dir)
    if not file.exists():
        return
    with file.open() as lines:
        for line in lines:
            if line.endswith("\n"):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{file} is damaged: {error}") from error


def _row(part: str, attempt: Mapping[str, Any], number: int, of: Mapping[str, Any]) -> dict[str, Any]:
    group = f"{attempt['task_id']}/{attempt['setting']}/{attempt['state_id']}"
    withheld = of.get("withheld") or {}
    kept = ("text", "action", "outcome", "reward", "score_before", "score_after", "origin")
    durations = {f"{name}_seconds": of["durations"][name] for name in PARTS}
    return {
        **{name: of[name] for name in kept},
        **durations,
        "step": part,
        "id": f"{part}/{group}/{attempt['seed']}/{number}",
        "group_id": group,
        "state_id": attempt["state_id"],
        "task_id": attempt["task_id"],
        "actor_id": attempt["agent"],
        "generate_seconds": of["seconds"],
        "prompt_ids": of["prompt_tokens"],
        "response_ids": range(of["response_tokens"]),
        "test_score": withheld.get("test") if withheld.get("apart", True) else None,
        "log_tail": of.get("log_tail", ""),  # of an earlier version
        "fault": of.get("fault", ""),
        "reward_parts": {},
        "version_spans": [],
        "milestones": [],
        "peak_mb": None,
    }
