"""The prompt: what the policy is told about a state, within a budget of tokens.

Invariant: what does not fit is left out in a fixed order: the oldest history first, then the middle of the newest
observation, then the problem's text; the script is never cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from envs.records import State, Step, Task

SYSTEM = "You improve machine-learning scripts. Write one thought and one action."
FORMAT = """Answer with:
Thought: <idea>
Action: Edit
<<<<<<< SEARCH
<lines of the script>
=======
<new lines>
>>>>>>> REPLACE
Other actions: Write, Execute, Inspect, Undo, Final Answer."""
GOAL = {1: "higher is better", -1: "lower is better"}
MAX_STEPS = 3
"""History entries shown at most."""
MIN_OBSERVATION = 80
"""Characters of the newest observation that are kept as long as the problem's text can give way."""


class PromptError(ValueError):
    """A state whose script alone is over the token budget."""


def messages(
    task: Task, state: State, files: Mapping[str, str], count: Callable[[str], int], budget: int
) -> list[dict[str, str]]:
    """Chat messages (`role`, `content`) that ask for the next action.

    count: tokens of a text; budget: most tokens of all contents together.

    Raises:
        PromptError: the script and the instructions alone are over the budget.
    """
    steps, problem = list(state.history[-MAX_STEPS:]), task.problem
    observation = steps[-1].observation if steps else ""

    def content() -> str:
        return _content(task, state, files, problem, [*steps[:-1], Step(steps[-1].action, observation)] if steps else [])

    def fits() -> bool:
        return count(SYSTEM) + count(content()) <= budget

    while not fits() and len(steps) > 1:
        steps.pop(0)
    while not fits() and len(observation) > MIN_OBSERVATION:
        observation = _shorter(observation)
    while not fits() and problem:
        problem = problem[: len(problem) // 2]
    if not fits():
        raise PromptError(
            f"task {task.id}: its script and the instructions take {count(SYSTEM) + count(content())} tokens, over the "
            f"budget of {budget}: raise model.context or shorten {task.script}"
        )
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content()}]


def _content(task: Task, state: State, files: Mapping[str, str], problem: str, steps: Sequence[Step]) -> str:
    score = "none" if state.reference is None else f"{state.reference:.5g}"
    parts = [
        f"{problem}\nMetric: {task.metric} ({GOAL[task.direction.sign]}), now {score}.",
        *(f"{name}:\n```\n{text}```" for name, text in files.items()),
        *(f"Tried: {_gist(step.action)}\nResult: {step.observation}" for step in steps),
        FORMAT,
    ]
    return "\n".join(parts)


def _gist(action: str) -> str:
    """The thought of a past action, or its first line."""
    lines = [line.strip() for line in action.strip().splitlines()] or [""]
    thoughts = [line.removeprefix("Thought:").strip() for line in lines if line.startswith("Thought:")]
    return (thoughts or lines)[0][:120]


def _shorter(text: str) -> str:
    """`text` without its middle, about a quarter shorter."""
    keep = max(MIN_OBSERVATION, len(text) * 3 // 4) // 2
    return text[:keep] + "…" + text[-keep + 1 :]
