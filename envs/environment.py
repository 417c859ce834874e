"""The environment: applies one action to a state and has the script run and graded (`envs.experiments`).

Invariants: a step depends only on the state, the action and the sandbox, never on an earlier step; a failure of the
sandbox is `INFRA_FAILURE`, never an outcome of the action; text that a script printed is escaped and bounded before
anyone reads it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace

from envs import actions, audit, changes, research_actions, shell
from envs.actions import Edit, Execute, FinalAnswer, Inspect, InvalidAction, Several, Shell, Undo, Write
from envs.experiments import Runner
from envs.printable import escaped
from envs.records import Durations, Experiment, Kept, Outcome, State, Step, StepResult, Task
from envs.research_actions import LOG, Editor, Note
from envs.sandbox import SandboxFailure
from envs.workspace import SnapshotStore

LOG_CHARACTERS = 600
"""Of a run's output, what the history keeps unless told otherwise: its end, where Python writes the error."""
TOO_LONG = "the answer was cut off at its limit of tokens, nothing was done: write a shorter one"
ANSWER_CHARACTERS = 4000
"""Of what the editor or a listing answers: its start."""


class Environment:
    """Runs actions on the states of `tasks`; methods block and may be called from many threads."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        runner: Runner,
        snapshots: SnapshotStore,
        editor: Editor | None = None,
        observation: int = LOG_CHARACTERS,
    ):
        """editor: the model that carries out the actions which need another one; observation: characters that are kept
        of a run's output."""
        self.tasks = dict(tasks)
        self.runner, self._snapshots, self._editor, self._kept = runner, snapshots, editor, observation

    def initial_state(self, task_id: str) -> State:
        """Where every episode of the task begins: the unchanged script with its measured score m_init."""
        start, snapshot = self.tasks[task_id].m_init, self._snapshots.put({})
        return State(f"{task_id}/initial", task_id, snapshot, score=start, reference=start, best=start)

    def files(self, state: State) -> dict[str, str]:
        """The files that the agent may read and change: the script and what it wrote, path → text."""
        return {name: file for name, file in self.workspace(state).items() if isinstance(file, str)}

    def workspace(self, state: State) -> dict[str, str | Kept]:
        """What an experiment gets beside the task's files: those above, and what earlier runs left that is kept."""
        task = self.tasks[state.task_id]
        return {task.script: (task.env_dir / task.script).read_text(), **self._snapshots.get(state.snapshot)}

    def baseline(self, task_id: str) -> StepResult:
        """Run and grade the unchanged script."""
        state = self.initial_state(task_id)
        try:
            return self._execute(state, "execute", "", edited=False)
        except SandboxFailure as failure:
            return _failed(state, "execute", failure)

    def step(self, state: State, text: str, truncated: bool = False) -> StepResult:
        """Apply the action in `text` (what the policy wrote) to `state`.

        truncated: the text was cut by its limit of tokens. Nothing is carried out then, though an action may stand
        there whole: nobody knows what was to follow.
        """
        best = self._best(state)
        result = self._applied(state, text, truncated)
        reached = replace(result.state, best=self._best(result.state, best))
        return replace(result, state=reached, best_before=best)

    def _best(self, state: State, *others: float | None) -> float | None:
        """The best valid score on the way to a state, and of others."""
        known = (state.best, state.score, state.reference, *(score for _, score in state.undo), *others)
        sign = self.tasks[state.task_id].direction.sign
        return max((score for score in known if score is not None), key=lambda score: score * sign, default=None)

    def _applied(self, state: State, text: str, truncated: bool) -> StepResult:
        if truncated:
            return _unapplied(state, "truncated", Outcome.TRUNCATED, text, TOO_LONG, TOO_LONG)
        task, files, kind = self.tasks[state.task_id], self.files(state), "invalid"
        try:
            kind, action = self._read(text, files, task)
            match action:
                case str():
                    return _neutral(state, kind, text, escaped(action)[:ANSWER_CHARACTERS])
                case Note():
                    noted = changes.apply(Write(LOG, f"{files.get(LOG, '')}{action.text}\n"), files, task)
                    return _neutral(self._with(state, noted), kind, text, "noted")
                case Edit() | Write() | Several():
                    changed = changes.apply(action, files, task)
                    edited = self._edited(state, changed)
                    if not action.run:
                        unrun = replace(edited, score=None, unrun=state.unrun + 1)
                        return _neutral(unrun, kind, text, f"{', '.join(changed)} written, and nothing run")
                    return self._audited(self._execute(edited, kind, text, edited=True), changed)
                case Execute():
                    if state.unrun and action.path in (None, task.script):  # what was written since is tried now
                        return self._audited(self._execute(state, kind, text, edited=True), files)
                    return self._execute(state, kind, text, edited=False, script=action.path)
                case Shell():
                    return self._commanded(state, action, text)
                case Inspect():
                    return _neutral(state, kind, text, escaped(changes.inspect(action, files, task)))
                case Undo():
                    return _neutral(self._undone(state), kind, text, "the last edit was undone")
                case FinalAnswer():
                    return _neutral(state, kind, text, "the episode is over")
        except InvalidAction as reason:
            told = f"invalid action: {reason}"
            refused = _unapplied(state, "invalid", Outcome.INVALID, text, told, str(reason))
            return replace(refused, fault=str(reason.fault))
        except SandboxFailure as failure:  # nothing was learnt about the action: the episode stays where it was
            return _failed(state, kind, failure)

    def _read(self, text: str, files: Mapping[str, str], task: Task) -> tuple[str, actions.Action | Note | str]:
        """The kind of the action, and what it comes to."""
        if task.actions == "native":
            action = actions.parse(text, task)
            if isinstance(action, Execute) and action.path:
                changes.require_script(action.path, files, task)
            return action.kind, action
        request = research_actions.parse(text)
        return request.kind, research_actions.resolve(request, files, task, self._editor)

    def close(self) -> None:
        self.runner.close()

    def _edited(self, state: State, changed: Mapping[str, str]) -> State:
        return self._changed(state, {**self._snapshots.get(state.snapshot), **changed})

    def _changed(self, state: State, files: Mapping[str, str | Kept]) -> State:
        """The state with these files in the place of its own, which an Undo gives back."""
        undo = (*state.undo, (state.snapshot, state.score))
        return replace(state, snapshot=self._snapshots.put(files), undo=undo)

    def _with(self, state: State, changed: Mapping[str, str]) -> State:
        return replace(state, snapshot=self._snapshots.put({**self._snapshots.get(state.snapshot), **changed}))

    def _commanded(self, state: State, action: Shell, text: str) -> StepResult:
        """Run commands on the files of `state`, and the task's script on what they made of these."""
        task, before = self.tasks[state.task_id], self._snapshots.get(state.snapshot)
        files = shell.laid(self.files(state), task)
        ran = self.runner.shell(task, {**self.workspace(state), **files}, action.command)
        tail = readable(ran.log, self._kept)
        if ran.outcome is not Outcome.NEUTRAL:
            result = _unapplied(state, action.kind, ran.outcome, text, f"{ran.outcome}: {tail}", tail)
            return replace(result, durations=ran.durations, peak_mb=ran.peak_mb)
        after = shell.applied(ran, files, before, task)
        observed = "\n".join(filter(None, (tail, shell.told(ran, task)))) or "it printed nothing"
        if after == before:
            return replace(_neutral(state, action.kind, text, observed), durations=ran.durations, peak_mb=ran.peak_mb)
        changed = self._changed(state, after)
        if not action.run:
            unrun = _neutral(replace(changed, score=None, unrun=state.unrun + 1), action.kind, text, observed)
            return replace(unrun, durations=ran.durations, peak_mb=ran.peak_mb)
        result = self._execute(changed, action.kind, text, edited=True, observed=observed)
        result = replace(result, durations=ran.durations + result.durations, peak_mb=max(ran.peak_mb, result.peak_mb))
        return self._audited(result, ran.written)

    def _undone(self, state: State) -> State:
        if not state.undo:
            raise InvalidAction("there is no edit to undo")
        *earlier, (snapshot, score) = state.undo
        reference = state.reference if score is None else score
        unrun = max(0, state.unrun - 1)
        return replace(state, snapshot=snapshot, undo=tuple(earlier), score=score, reference=reference, unrun=unrun)

    def _execute(
        self, state: State, kind: str, text: str, edited: bool, script: str | None = None, observed: str = ""
    ) -> StepResult:
        """Run the task's script, or another one, as it is in `state`, and grade what it wrote; observed: before it."""
        task, other = self.tasks[state.task_id], script is not None and script != self.tasks[state.task_id].script
        run = self.runner.run(replace(task, script=script) if other else task, self.workspace(state))
        state = self._keeping(state, run)
        outcome = run.outcome
        if not edited and (outcome is Outcome.EDITED or (other and run.finished)):
            outcome = Outcome.NEUTRAL
        tail, score = readable(run.log, self._kept), run.score
        observation = f"{task.metric} = {score:.5g}\n{tail}".rstrip() if score is not None else f"{outcome}: {tail}"
        observation = f"{observed}\n{observation}" if observed else observation
        reference = state.reference if score is None else score
        after = _after(state, text, observation)
        if edited or not other:  # what another script achieved says nothing about this one
            after = replace(after, score=score, reference=reference, unrun=0)
        return StepResult(
            kind, outcome, state.reference, score, observation, tail, run.durations, after,
            run.peak_mb, run.milestones, run.origin, run.withheld, run.findings if edited else (),
        )  # fmt: skip

    def _keeping(self, state: State, run: Experiment) -> State:
        """The state with what a run left that is kept, in the place of what earlier ones did."""
        before = self._snapshots.get(state.snapshot)
        if run.kept is None or dict(run.kept) == {
            name: file for name, file in before.items() if isinstance(file, Kept)
        }:
            return state
        texts = {name: file for name, file in before.items() if isinstance(file, str)}
        return replace(state, snapshot=self._snapshots.put({**dict(run.kept), **texts}))

    def _audited(self, result: StepResult, changed: Mapping[str, str]) -> StepResult:
        """The result of an edit with all that is suspicious in it; changed: the files that it wrote."""
        state = result.state
        return replace(result, findings=audit.of_edit(self.tasks[state.task_id], self.files(state), changed, result))


def _failed(state: State, kind: str, failure: SandboxFailure) -> StepResult:
    reason = str(failure)
    return StepResult(kind, Outcome.INFRA_FAILURE, state.reference, None, reason, reason, Durations(), state)


def _neutral(state: State, kind: str, text: str, observation: str) -> StepResult:
    return _unapplied(state, kind, Outcome.NEUTRAL, text, observation, "")


def _unapplied(state: State, kind: str, outcome: Outcome, text: str, observation: str, tail: str) -> StepResult:
    """Of an action that ran nothing."""
    after = _after(state, text, observation)
    return StepResult(kind, outcome, state.reference, None, observation, tail, Durations(), after)


def _after(state: State, text: str, observation: str) -> State:
    """The state after an action, with a new id."""
    return replace(state, id=uuid.uuid4().hex[:16], history=(*state.history, Step(text, observation)))


def readable(log: str, characters: int = LOG_CHARACTERS) -> str:
    """The end of a script's output, escaped."""
    shown = escaped(log.strip())
    return shown if len(shown) <= characters else "…" + shown[len(shown) - characters :]
