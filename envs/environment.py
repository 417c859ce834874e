"""The environment: applies one action to a state and has the script run and graded (`envs.experiments`).

Invariants: a step depends only on the state, the action and the sandbox, never on an earlier step; a failure of the
sandbox is `INFRA_FAILURE`, never an outcome of the action; text that a script printed is escaped and bounded before
anyone reads it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace

from envs import actions
from envs.actions import Edit, Execute, FinalAnswer, Inspect, InvalidAction, Undo, Write
from envs.experiments import Runner
from envs.records import Durations, Outcome, State, Step, StepResult, Task, Usage
from envs.sandbox import SandboxFailure
from envs.workspace import SnapshotStore

LOG_CHARACTERS = 600
"""Of a run's output, what the history keeps: its end, where Python writes the error."""


class Environment:
    """Runs actions on the states of `tasks`; methods block and may be called from many threads."""

    def __init__(self, tasks: Mapping[str, Task], runner: Runner, snapshots: SnapshotStore):
        self.tasks = dict(tasks)
        self.runner, self._snapshots = runner, snapshots

    def initial_state(self, task_id: str) -> State:
        """Where every episode of the task begins: the unchanged script with its measured score m_init."""
        m_init = self.tasks[task_id].m_init
        return State(f"{task_id}/initial", task_id, self._snapshots.put({}), score=m_init, reference=m_init)

    def files(self, state: State) -> dict[str, str]:
        """The files that the agent may read and change: the script and what it wrote, path → text."""
        task = self.tasks[state.task_id]
        return {task.script: (task.env_dir / task.script).read_text(), **self._snapshots.get(state.snapshot)}

    def baseline(self, task_id: str) -> StepResult:
        """Run and grade the unchanged script."""
        state = self.initial_state(task_id)
        return self._execute(state, state, "execute", "")

    def step(self, state: State, text: str) -> StepResult:
        """Apply the action in `text` (what the policy wrote) to `state`."""
        task, files = self.tasks[state.task_id], self.files(state)
        try:
            action = actions.parse(text, task)
            match action:
                case Edit() | Write():
                    changed = actions.apply(action, files, task)
                    return self._execute(state, self._edited(state, changed), action.kind, text)
                case Execute():
                    return self._execute(state, state, action.kind, text)
                case Inspect():
                    return _neutral(state, action.kind, text, actions.inspect(action, files, task))
                case Undo():
                    return _neutral(self._undone(state), action.kind, text, "the last edit was undone")
                case FinalAnswer():
                    return _neutral(state, action.kind, text, "the episode is over")
        except InvalidAction as reason:
            observation = f"invalid action: {reason}"
            after = _after(state, text, observation)
            return StepResult(
                "invalid", Outcome.INVALID, state.reference, None, observation, str(reason), Durations(), after
            )

    def close(self) -> None:
        self.runner.close()

    def _edited(self, state: State, changed: Mapping[str, str]) -> State:
        snapshot = self._snapshots.put({**self._snapshots.get(state.snapshot), **changed})
        return replace(state, snapshot=snapshot, undo=(*state.undo, (state.snapshot, state.score)), score=None)

    def _undone(self, state: State) -> State:
        if not state.undo:
            raise InvalidAction("there is no edit to undo")
        *earlier, (snapshot, score) = state.undo
        reference = state.reference if score is None else score
        return replace(state, snapshot=snapshot, undo=tuple(earlier), score=score, reference=reference)

    def _execute(self, before: State, state: State, kind: str, text: str) -> StepResult:
        """Run the script of `state`, which is `before` with the edit applied, and grade it."""
        task = self.tasks[state.task_id]
        try:
            run = self.runner.run(task, self.files(state))
        except SandboxFailure as failure:  # nothing was learnt about the action: the episode stays where it was
            reason = str(failure)
            return StepResult(kind, Outcome.INFRA_FAILURE, before.reference, None, reason, reason, Durations(), before)
        outcome = Outcome.NEUTRAL if kind == "execute" and run.outcome is Outcome.EDITED else run.outcome
        tail, score = readable(run.log), run.score
        observation = f"{task.metric} = {score:.5g}" if score is not None else f"{outcome}: {tail}"
        reference = state.reference if score is None else score
        after = replace(_after(state, text, observation), score=score, reference=reference)
        return StepResult(
            kind, outcome, state.reference, score, observation, tail, run.durations, after,
            run.peak_mb, run.milestones, run.origin,
        )  # fmt: skip


def _neutral(state: State, kind: str, text: str, observation: str) -> StepResult:
    after = _after(state, text, observation)
    return StepResult(kind, Outcome.NEUTRAL, state.reference, None, observation, "", Durations(), after)


def _after(state: State, text: str, observation: str) -> State:
    """The state after an action, with a new id."""
    return replace(state, id=uuid.uuid4().hex[:16], history=(*state.history, Step(text, observation)))


def usage(task: Task, result: StepResult) -> Usage:
    """What the experiment of a step reached and used, as shares of the task's limits."""
    return Usage(
        result.milestones,
        min(1.0, result.durations.execute / task.limits.seconds),
        min(1.0, result.peak_mb / task.limits.memory_mb),
    )


def readable(log: str) -> str:
    """The end of a script's output, with control characters (terminal escapes among them) shown as escapes."""
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in log.strip())
    return shown if len(shown) <= LOG_CHARACTERS else "…" + shown[-LOG_CHARACTERS:]
