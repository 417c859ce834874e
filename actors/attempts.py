"""Attempts: how an agent acts on a task, one step or a whole episode, and what came of each action.

The agent is a function that proposes the next action; `straight` follows it from state to state, `greedy` searches the
tree of states with it. Invariants: both spend the same budget, an action (so at most one experiment) per step; what
the sandbox or an endpoint failed at ends the attempt and is told, and is never an outcome of the agent.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from actors.policy.endpoint import EndpointError
from envs.prompt import PromptError
from envs.records import Direction, Durations, Origin, Outcome, State, StepResult, Withheld

STEP, EPISODE = "step", "episode"
FINAL = "final answer"
"""Kind of the action that ends an episode."""
DRAFTS = 5
"""Solutions that a search begins with, but a third of its budget at most."""
DEBUG = 0.5
"""Probability that a search mends a broken solution where there is one."""
DEBUGGED = 3
"""Times in a row that a broken solution may be worked on."""
STRIDE = 1_000_003
"""Between the seeds of two steps of an attempt, so that they are none of another attempt's."""


@dataclass(frozen=True)
class Answer:
    """What an agent wrote."""

    text: str
    prompt_tokens: int = 0
    response_tokens: int = 0
    seconds: float = 0.0
    truncated: bool = False
    """It ended at its limit of tokens."""
    used: float = 0.0
    """Share of that limit that it took."""


@dataclass(frozen=True)
class Tried:
    """One action of an attempt, and what came of it."""

    text: str
    action: str
    outcome: Outcome
    score: float | None
    """Of the script as the action left it; None where that does not run."""
    score_before: float | None
    score_after: float | None
    reward: float
    prompt_tokens: int
    response_tokens: int
    seconds: float
    """That the agent took to write it."""
    durations: Durations = field(default_factory=Durations)
    origin: Origin = Origin.RUN
    withheld: Withheld | None = None
    """Beside score_after."""
    log_tail: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Trial:
    """What an agent is to do."""

    setting: str
    """`STEP` or `EPISODE`."""
    task_id: str
    state: State | None
    """Where it begins; None for the unchanged script."""
    steps: int
    """Most actions."""
    seed: int
    seconds: float = 0.0
    """Of writing and running after which no further action is begun; 0: no bound."""


@dataclass(frozen=True)
class Attempt:
    """What came of it."""

    agent: str
    setting: str
    task_id: str
    state_id: str
    seed: int
    start: float
    """Score that it began with: of the state, or its last valid one."""
    tried: tuple[Tried, ...]
    failure: str = ""
    """Why it was cut by what is not the agent's fault; it then counts for nothing."""
    start_test: float | None = None
    """The test score beside `start`."""


Propose = Callable[[State, int], Awaitable[Answer]]
"""(state, seed) → the next action."""
Apply = Callable[[State, Answer], Awaitable[StepResult]]
Path = list[tuple[Answer, StepResult]]


async def straight(propose: Propose, apply: Apply, trial: Trial, start: State) -> tuple[Path, str]:
    """Each action from the state that the one before led to; returns them and why the attempt was cut, if it was."""
    path: Path = []
    state = start
    for number in range(trial.steps):
        if _over(trial, path):
            break
        failure, done = await _act(propose, apply, state, trial.seed + STRIDE * number, path)
        if failure or done:
            return path, failure
        state = path[-1][1].state
    return path, ""


async def greedy(
    propose: Propose, apply: Apply, trial: Trial, start: State, direction: Direction
) -> tuple[Path, str]:  # fmt: skip
    """Greedy search over solutions, as AIDE's (arXiv 2502.13138, section 3); returns as `straight` does.

    First some drafts, each from the start; then, now and then, a broken solution is mended, and otherwise the best one
    so far is improved.
    """
    rng = random.Random(trial.seed)
    path: Path = []
    tree = Tree(start, direction, min(DRAFTS, max(1, trial.steps // 3)))
    for number in range(trial.steps):
        if _over(trial, path):
            break
        parent, before = tree.choose(rng), len(path)
        failure, _ = await _act(propose, apply, tree.states[parent], trial.seed + STRIDE * number, path)
        if failure:
            return path, failure
        if len(path) > before:
            tree.add(parent, path[-1][1].state)
    return path, ""


def _over(trial: Trial, path: Path) -> bool:
    """Whether the trial's time is used up. What waited in a queue does not count, and what was run before by another
    counts as it took then, so that a busy machine changes nothing."""
    spent = sum(
        answer.seconds + result.durations.restore + result.durations.execute + result.durations.grade
        for answer, result in path
    )
    return bool(trial.seconds) and spent >= trial.seconds


class Tree:
    """The solutions of a search; number 0 is where it starts."""

    def __init__(self, start: State, direction: Direction, drafts: int):
        self.states, self._sign, self._drafts = [start], direction.sign, drafts
        self._parents: list[int | None] = [None]

    def choose(self, rng: random.Random) -> int:
        """The solution to go on from."""
        if len(self.states) <= self._drafts:
            return 0
        broken = [i for i in range(len(self.states)) if self._can_be_mended(i)]
        if broken and rng.random() < DEBUG:
            return rng.choice(broken)
        ran = [i for i, state in enumerate(self.states) if state.score is not None]
        return max(ran, key=lambda i: self._sign * self.states[i].score, default=0)

    def add(self, parent: int, state: State) -> None:
        self.states.append(state)
        self._parents.append(parent)

    def _can_be_mended(self, i: int) -> bool:
        """Whether it does not run, nobody has worked on it, and not too many before it in a row did not run."""
        if self.states[i].score is not None or i in self._parents:
            return False
        row, above = 0, self._parents[i]
        while above is not None and self.states[above].score is None:
            row, above = row + 1, self._parents[above]
        return row < DEBUGGED


async def _act(propose: Propose, apply: Apply, state: State, seed: int, path: Path) -> tuple[str, bool]:
    """Have one action written and applied, and add it to the path; returns a failure and whether the episode is over.

    A state that is too long for the agent ends the episode.
    """
    try:
        answer = await propose(state, seed)
    except PromptError:
        return "", True
    except EndpointError as error:
        return str(error), True
    result = await apply(state, answer)
    if result.outcome is Outcome.INFRA_FAILURE:
        return result.log_tail, True
    path.append((answer, result))
    return "", result.action == FINAL
