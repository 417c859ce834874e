"""The loop that improves one script: an agent proposes, the sandbox runs, the best version is kept.

Invariants: the best version is one that ran and scored, chosen by validation alone; nothing is run that the person
refused; after two actions in a row that left no working script it goes on from the best version.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from actors.policy.endpoint import Reply
from envs import actions, research_actions
from envs.environment import Environment
from envs.records import Outcome, State, StepResult, Task, Withheld

PATIENCE = 2
STRIDE = 1_000
"""Between the seeds of two steps; in between are those of what the person refused."""

Propose = Callable[[Task, State, int], Awaitable[Reply]]
"""(task, state, seed) → an action."""
FAULTS = frozenset({Outcome.INVALID, Outcome.TRUNCATED})


@dataclass(frozen=True)
class Answer:
    """What a person says to a proposed action."""

    run: bool
    hint: str = ""
    stop: bool = False


@dataclass
class Solution:
    """What has been found so far."""

    script: str
    score: float
    start: float
    withheld: Withheld | None = None
    """Beside `score`."""
    tried: list[tuple[str, StepResult]] = field(default_factory=list)


async def solve(
    environment: Environment,
    task_id: str,
    propose: Propose,
    steps: int,
    seed: int,
    ask: Callable[[str, str, str | None], Answer],
    tell: Callable[[StepResult, Solution], None],
) -> Solution:
    """Improve the task's script in at most `steps` actions; the task's m_init is measured.

    ask: (action text, the script now, and as the action would make it or None) → whether to run it; tell: is told of
    each result.
    """
    task, state = environment.tasks[task_id], environment.initial_state(task_id)
    best, failed = state, 0
    solution = Solution(environment.files(state)[task.script], task.m_init, task.m_init)
    for step in range(steps):
        for refused in range(STRIDE):
            reply = await propose(task, state, seed + step * STRIDE + refused)
            text, files = reply.text, environment.files(state)
            then = None if reply.truncated else preview(text, files, task)
            answer = ask(text, files[task.script], then)
            if answer.hint:
                task = dataclasses.replace(task, problem=f"{task.problem}\nHint: {answer.hint}")
            if answer.run or answer.stop:
                break
        if answer.stop:
            break
        result = await asyncio.to_thread(environment.step, state, text, reply.truncated)
        solution.tried.append((text, result))
        state = result.state
        if result.action == actions.FinalAnswer.kind:
            tell(result, solution)
            break
        if state.score is not None and task.direction.sign * (state.score - solution.score) > 0:
            best, solution.score, solution.script = state, state.score, environment.files(state)[task.script]
            solution.withheld = result.withheld
        failed = failed + 1 if state.score is None or result.outcome in FAULTS else 0
        if failed >= PATIENCE:
            state, failed = dataclasses.replace(best, history=state.history), 0
        tell(result, solution)
    return solution


def preview(text: str, files: dict[str, str], task: Task) -> str | None:
    """The script as the action would leave it; None where it is not changed, or that is not known beforehand."""
    try:
        if task.actions == "native":
            action = actions.parse(text, task)
        else:
            action = research_actions.resolve(research_actions.parse(text), files, task, None)
        if isinstance(action, actions.Edit | actions.Write):
            return actions.apply(action, files, task).get(task.script)
    except actions.InvalidAction:
        pass
    return None
