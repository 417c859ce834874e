"""The loop that improves one script: an agent proposes, the sandbox runs, the best version is kept.

Invariants: the best version is one that ran and scored, chosen by validation alone; nothing is run that the person
refused, that changes nothing, or that was tried before; after two actions in a row that left no working script it goes
on from the best version.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from actors.policy.endpoint import Reply
from actors.solving.background import beside
from envs import actions, changes, research_actions, syntax
from envs.environment import Environment
from envs.prompt import BRIEF
from envs.records import Durations, Outcome, State, Step, StepResult, Task, Withheld

PATIENCE = 2
RECALLED = 10
"""Earlier ideas that the agent is told of, beside the last ones that its prompt has anyway."""
IDEA = 90
"""Characters of an idea."""
STRIDE = 1_000
"""Between the seeds of two steps; in between are those of what the person refused."""
REFUSED = "the user refused it, and it was not run: propose something else"

Propose = Callable[[Task, State, int], Awaitable[Reply]]
"""(task, state, seed) → an action."""
FAULTS = frozenset({Outcome.INVALID, Outcome.TRUNCATED})
RAN = frozenset({Outcome.EDITED, Outcome.SCRIPT_ERROR, Outcome.TIMEOUT, Outcome.OUT_OF_MEMORY})
"""Of an edit that was run; one may be written without."""


@dataclass(frozen=True)
class Answer:
    """What a person says to a proposed action."""

    run: bool
    hint: str = ""
    stop: bool = False


@dataclass(frozen=True)
class Tried:
    """One action and what came of it."""

    text: str
    result: StepResult
    before: Mapping[str, str]
    """The editable files, path → text."""
    changed: Mapping[str, str]
    """Those that the action writes, as they are then; empty where it writes none, or that is not known beforehand."""


@dataclass
class Solution:
    """What has been found so far."""

    files: Mapping[str, str]
    """The editable files of the best version, path → text."""
    score: float
    start: float
    withheld: Withheld | None = None
    """Beside `score`."""
    tried: list[Tried] = field(default_factory=list)


Tell = Callable[[StepResult, Solution], None]
"""(what came of an action, what has been found so far)."""


async def solve(
    environment: Environment,
    task_id: str,
    propose: Propose,
    steps: int,
    seed: int,
    ask: Callable[[str, Mapping[str, str], Mapping[str, str] | None, bool], Answer],
    tell: Tell,
    history: int = BRIEF.history,
) -> Solution:
    """Improve the task's script in at most `steps` actions; the task's m_init is measured.

    ask: (action text, the files now, those that the action would write or None, whether it is needless) → whether to
    run it; what is needless is only shown; tell: is told of each result; history: past actions that prompts show.
    """
    task, state = environment.tasks[task_id], environment.initial_state(task_id)
    best, failed = state, 0
    solution = Solution(environment.files(state), task.m_init, task.m_init)
    known = {_meaning(solution.files): f"{task.metric} = {task.m_init:.5g}"}
    for step in range(steps):
        for refused in itertools.count():
            told = dataclasses.replace(task, problem=task.problem + recalled(solution.tried, task, history))
            reply = await propose(told, state, seed + step * STRIDE + refused)
            text, files = reply.text, environment.files(state)
            changed = None if reply.truncated else preview(text, files, task)
            needless = _needless({**files, **changed}, files, known) if changed else ""
            answer = ask(text, files, changed, bool(needless))
            if answer.hint:
                task = dataclasses.replace(task, problem=f"{task.problem}\nHint: {answer.hint}")
            if answer.run or answer.stop:
                break
            state = dataclasses.replace(state, history=(*state.history, Step(text, REFUSED)))
        if answer.stop:
            break
        if needless:
            result = _not_run(state, text, needless)
        else:
            result = await beside(environment.step, state, text, reply.truncated)
        solution.tried.append(Tried(text, result, files, changed or {}))
        state = result.state
        if result.action == actions.FinalAnswer.kind:
            tell(result, solution)
            break
        if result.outcome in RAN:
            known.setdefault(_meaning(environment.files(state)), result.observation[:IDEA])
        if state.score is not None and task.direction.sign * (state.score - solution.score) > 0:
            best, solution.score, solution.files = state, state.score, environment.files(state)
            solution.withheld = result.withheld
        unscored = state.score is None and not state.unrun
        failed = failed + 1 if unscored or result.outcome in FAULTS else 0
        if failed >= PATIENCE:
            state, failed = dataclasses.replace(best, history=state.history), 0
        tell(result, solution)
    return solution


def preview(text: str, files: Mapping[str, str], task: Task) -> dict[str, str] | None:
    """The files that the action would write, path → text; None where it writes none, or is not known to beforehand."""
    try:
        if task.actions == "native":
            action = actions.parse(text, task)
        else:
            action = research_actions.resolve(research_actions.parse(text), files, task, None)
        if isinstance(action, actions.Change):
            return changes.apply(action, files, task)
    except actions.InvalidAction:
        pass
    return None


def recalled(tried: Sequence[Tried], task: Task, history: int) -> str:
    """What was tried before the last `history` actions, which the prompt has anyway, for the problem's text."""
    earlier = [one for one in tried[: max(0, len(tried) - history)] if one.changed][-RECALLED:]
    lines = [f"- {idea(one)}: {_outcome(one.result, task)}" for one in earlier]
    return "\n".join(["\nTried before, do not repeat:", *lines]) if lines else ""


def idea(tried: Tried) -> str:
    """The thought of an action, or its kind where it tells none."""
    lines = [line.strip().replace("*", "") for line in tried.text.splitlines()]
    thoughts = [line.removeprefix("Thought:").strip() for line in lines if line.startswith("Thought:")]
    return (thoughts[0] if thoughts else "")[:IDEA] or tried.result.action


def _outcome(result: StepResult, task: Task) -> str:
    return f"{task.metric} {result.score_after:.5g}" if result.score_after is not None else str(result.outcome)


def _meaning(files: Mapping[str, str]) -> str:
    return repr(sorted((name, syntax.meaning(text)) for name, text in files.items()))


def _needless(then: Mapping[str, str], now: Mapping[str, str], known: Mapping[str, str]) -> str:
    """Why running these files would tell nothing; empty where it might."""
    meant = _meaning(then)
    if meant == _meaning(now):
        return "not run: this changes nothing that the script does; change something else"
    return f"not run: this was tried before ({known[meant]}); try something else" if meant in known else ""


def _not_run(state: State, text: str, why: str) -> StepResult:
    after = dataclasses.replace(state, history=(*state.history, Step(text, why)))
    return StepResult("edit", Outcome.NEUTRAL, state.reference, None, why, "", Durations(), after)
