"""The prompt: what the policy is told about a state, within a budget of tokens.

Invariant: what does not fit is left out in a fixed order: the oldest history first, then the middle of the newest
observation, then the problem's text, then the newest history; the script is never cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from envs import research_actions
from envs.errors import UserError
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
FORMATS = {"native": FORMAT, "mlagentbench": research_actions.FORMAT}
GOAL = {1: "higher is better", -1: "lower is better"}
MAX_STEPS = 3
"""History entries shown at most."""
MIN_OBSERVATION = 80
"""Characters of the newest observation that are kept as long as the problem's text can give way."""
MAX_THOUGHT = 120
"""Characters shown of what a past action was about."""


class PromptError(UserError):
    """A state whose script alone is over the token budget."""


def messages(
    task: Task, state: State, files: Mapping[str, str], count: Callable[[str], int], budget: int
) -> list[dict[str, str]]:
    """Chat messages (`role`, `content`) that ask for the next action.

    files: the editable files, path → text; the script is shown, of others the names.
    count: tokens of a text; budget: most tokens of all contents together, the chat template's own not counted.

    Raises:
        PromptError: the script and the instructions alone are over the budget.
    """
    steps, problem = list(state.history[-MAX_STEPS:]), task.problem

    def content() -> str:
        return _content(task, state, files, problem, steps)

    def fits() -> bool:
        return count(SYSTEM) + count(content()) <= budget

    while not fits() and len(steps) > 1:
        steps.pop(0)
    while not fits() and steps and len(steps[0].observation) > MIN_OBSERVATION:
        steps = [Step(steps[0].action, _shorter(steps[0].observation))]
    while not fits() and problem:
        problem = problem[: len(problem) // 2]
    if not fits():
        steps = []
    if not fits():
        raise PromptError(
            f"task {task.id}: its script and the instructions take {count(SYSTEM) + count(content())} tokens, over the "
            f"budget of {budget}: raise the budget or shorten {task.script}"
        )
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content()}]


def folded(messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The messages with what the system says before what the user says, in the user's turn."""
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    others = [dict(message) for message in messages if message["role"] != "system"]
    if system.strip() and others:
        others[0]["content"] = f"{system}\n\n{others[0]['content']}"
    return others


def _content(task: Task, state: State, files: Mapping[str, str], problem: str, steps: Sequence[Step]) -> str:
    others = ", ".join(name for name in files if name != task.script)
    parts = [
        problem,
        f"Metric: {task.metric} ({GOAL[task.direction.sign]}). {_scores(task, state)}",
        f"{task.script}:\n```\n{files[task.script]}```",
        f"Other files: {others}" if others else "",
        *(f"Tried: {_gist(step.action)}\nResult: {step.observation}" for step in steps),
        FORMATS[task.actions],
    ]
    return "\n".join(filter(None, parts))


def _scores(task: Task, state: State) -> str:
    """Where the state stands, and where it started if that differs."""
    if state.score is not None:
        now = f"Now {state.score:.5g}"
    elif state.reference is not None:
        now = f"Now the script fails, before it was {state.reference:.5g}"
    else:
        now = "Not measured yet"
    start = f", at the start {task.m_init:.5g}" if task.m_init is not None and task.m_init != state.reference else ""
    return f"{now}{start}."


def _gist(action: str) -> str:
    """The thought of a past action, or its first line."""
    lines = [line.strip().replace("**", "") for line in action.strip().splitlines()] or [""]
    thoughts = [line.removeprefix("Thought:").strip() for line in lines if line.startswith("Thought:")]
    return (thoughts or lines)[0][:MAX_THOUGHT]


def _shorter(text: str) -> str:
    """`text` without its middle, about a quarter shorter."""
    keep = max(MIN_OBSERVATION, len(text) * 3 // 4) // 2
    return f"{text[: keep - 1]}…{text[-keep:]}"
