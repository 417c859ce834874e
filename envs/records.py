"""The records that flow between rooms, as frozen dataclasses; every room may import this file.

Invariants: records are immutable and picklable; this file imports only the standard library and numpy;
an `Outcome` of `INFRA_FAILURE` never carries a reward that is trained on.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


class Direction(enum.StrEnum):
    """Which way the task metric improves."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"

    @property
    def sign(self) -> int:
        """+1 or −1: multiplying a score by it makes larger better."""
        return 1 if self is Direction.MAXIMIZE else -1


class Outcome(enum.StrEnum):
    """What became of one action."""

    EDITED = "edited"
    """The edit applied, the script ran, and its submission was graded."""
    NEUTRAL = "neutral"
    """A valid action that changed no file (execute, inspect, undo, final answer)."""
    INVALID = "invalid"
    """The text was no action, or its arguments were refused (unknown file, no match, read-only)."""
    SCRIPT_ERROR = "script_error"
    """The script crashed, or left no submission that the grader accepts."""
    TIMEOUT = "timeout"
    """The script ran past its wall-clock limit."""
    OUT_OF_MEMORY = "out_of_memory"
    """The script asked for more memory than its limit."""
    INFRA_FAILURE = "infra_failure"
    """The sandbox, not the script, failed: masked from training and retried."""


@dataclass(frozen=True)
class Limits:
    """What one experiment may use; enforced by the sandbox."""

    seconds: float = 30.0
    """Wall-clock seconds."""
    cpus: float = 1.0
    """CPU cores, and the thread count of numerical libraries."""
    memory_mb: int = 1024
    """MiB of memory for all processes of the experiment."""
    disk_mb: int = 256
    """MiB that any one written file may have."""
    processes: int = 64
    """Processes and threads at once."""


@dataclass(frozen=True)
class Task:
    """A prepared ML task: what the agent sees, and (by path, never content) what only the grader sees."""

    id: str
    problem: str
    """The text of scripts/research_problem.txt."""
    env_dir: Path
    """What the agent sees, read-only: the script, the data, task_descriptor.txt."""
    private_dir: Path
    """scripts/ with eval.py and the answers; never mounted in a sandbox."""
    script: str
    """The script that is run and improved, relative to env_dir."""
    read_only: frozenset[str]
    """Files (relative to env_dir) that the agent may not change; data files always are."""
    metric: str
    direction: Direction
    split: str
    """`held_in` (trained on) or `held_out` (only evaluated)."""
    limits: Limits
    m_best: float
    """Score of a strong solution; with m_init it spans the reward's range."""
    m_init: float | None = None
    """Score of the unchanged script, measured on the sandbox in use; None until measured."""


@dataclass(frozen=True)
class Step:
    """One past action and what was observed after it."""

    action: str
    observation: str


@dataclass(frozen=True)
class State:
    """A point from which the policy acts: restorable from its snapshot."""

    id: str
    task_id: str
    snapshot: str
    """Id of the workspace content in the snapshot store."""
    history: tuple[Step, ...] = ()
    score: float | None = None
    """Score of the current workspace; None if its last run failed or it never ran."""
    reference: float | None = None
    """Last valid score on the way here: m_before of the next action."""
    undo: tuple[tuple[str, float | None], ...] = ()
    """(snapshot, score) before each edit so far, newest last."""
    kind: str = "initial"
    """`initial`, `middle`, `plateau` or `error`."""


@dataclass(frozen=True)
class Durations:
    """Seconds spent in each part of a step."""

    queue: float = 0.0
    restore: float = 0.0
    execute: float = 0.0
    grade: float = 0.0


@dataclass(frozen=True)
class StepResult:
    """What the environment answers to one action. `state` is where the episode goes on."""

    action: str
    """Kind of the parsed action (`edit`, `write`, `execute`, …) or `invalid`."""
    outcome: Outcome
    score_before: float | None
    score_after: float | None
    observation: str
    log_tail: str
    durations: Durations
    state: State


@dataclass(frozen=True)
class Transition:
    """One trained-on step: a state's prompt, the policy's response and its reward."""

    id: str
    """Unique; the stream delivers each id exactly once."""
    group_id: str
    """Shared by the K responses sampled from one state."""
    state_id: str
    task_id: str
    actor_id: str
    prompt_ids: np.ndarray
    """int32 [P]."""
    response_ids: np.ndarray
    """int32 [R], the end token included when it was sampled."""
    behaviour_logprobs: np.ndarray
    """float32 [R]: log-probability of each response token under the policy that sampled it."""
    version_spans: tuple[tuple[int, int, int], ...]
    """(weight version, start, end) over response positions, end exclusive."""
    text: str
    action: str
    outcome: Outcome
    reward: float
    reward_parts: dict[str, float]
    score_before: float | None
    score_after: float | None
    log_tail: str
    durations: Durations = field(default_factory=Durations)
    generate_seconds: float = 0.0
