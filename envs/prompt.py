"""The prompt: what the policy is told about a state, within a budget of tokens.

Invariant: what does not fit is left out in a fixed order: the oldest history first, then the preview of the data, the
middles of the newest step, of the task's description and of its problem, then the newest step, and last the script but
for its ends and the lines around an error. The end of a problem, where the format of a submission stands, is never cut.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from envs import research_actions
from envs.changes import MAX_INSPECTED_WIDTH
from envs.errors import UserError
from envs.preview import preview, shown_file
from envs.printable import escaped, without_middle
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
WHOLE_FORMAT = """Answer with one thought and one action:
Thought: <idea>
Action: Edit
File: <path; the script unless given>
<<<<<<< SEARCH
<lines of the file>
=======
<new lines>
>>>>>>> REPLACE
More blocks may follow, and after another line File: those of another file. The script is run and scored afterwards.
Other actions:
Write: a whole file between two ``` lines, after its line File: (several files may follow one another).
Edit and Write with a line `Run: no` under the action run nothing: write several files first, then Execute.
Execute: run the script as it is, or another one (File: <path>), whose score does not count.
Inspect: lines of a file (File: <path>, Lines: 1-60).
Undo: take the last change back.
Final Answer: end the episode."""
SHELL_FORMAT = """
Shell: commands between two ``` lines, run by bash in the working folder; text files that they change stay changed."""
"""After either, where the task allows commands."""
FORMATS = {"native": FORMAT, "mlagentbench": research_actions.FORMAT}
"""Of actions; `WHOLE_FORMAT` where actions are told whole."""
MAX_NAMES = 30
"""Of files that may be changed, those that are told."""
GOAL = {1: "higher is better", -1: "lower is better"}
DESCRIPTOR = "task_descriptor.txt"
"""What a task's files hold, in its folder."""
MAX_DESCRIPTOR_BYTES = 1 << 16
MIN_OBSERVATION = 80
"""Characters of the newest observation that are kept as long as anything else can give way."""
MIN_PROBLEM = 300
"""Characters of a problem that are always kept; of a longer one, that many and more of its end."""
MIN_LINES = 20
"""Lines of a script that are always shown."""
MAX_THOUGHT = 120
"""Characters shown of what a past action was about."""
CUT, LEAST = " […] ", 100
"""Between the ends of a text without its middle; characters below which such ends say nothing."""
ERROR_LINE = re.compile(r'File "[^"\n]*?([^/"\n]+)", line (\d{1,6})')


class PromptError(UserError):
    """A state whose instructions, and the least of its script that is shown, are over the token budget."""


@dataclass(frozen=True)
class Extent:
    """How much is shown where it fits."""

    history: int = 3
    """Past actions, the newest."""
    whole: bool = False
    """Past actions as they were written, not their thought alone, and all that an action may be."""
    descriptor: int = 0
    """Characters of the task's own description of its files."""
    preview: int = 0
    """Characters of a preview of its data."""

    @classmethod
    def of(cls, section: Any) -> Extent:
        """As the section `prompt` of a configuration says."""
        return cls(section.history, section.actions == "whole", section.descriptor, section.preview)


BRIEF = Extent()


@dataclass(frozen=True)
class _Parts:
    """What a prompt is made of, each part as far as it is shown."""

    problem: str
    descriptor: str
    preview: str
    script: str
    steps: tuple[str, ...]


def messages(
    task: Task,
    state: State,
    files: Mapping[str, str],
    count: Callable[[str], int],
    budget: int,
    extent: Extent = BRIEF,
) -> list[dict[str, str]]:
    """Chat messages (`role`, `content`) that ask for the next action.

    files: the editable files, path → text; the script is shown, of others the names.
    count: tokens of a text; budget: most tokens of all contents together, the chat template's own not counted.

    Raises:
        PromptError: the instructions and a few lines of the script alone are over the budget.
    """
    script, history = files[task.script], state.history[-extent.history :] if extent.history else ()
    newest = history[-1] if history else None
    told = functools.partial(_told, whole=extent.whole)
    parts = _Parts(
        task.problem, _descriptor(task, extent.descriptor), _preview(task, extent.preview), _whole(task, script),
        tuple(map(told, history)),
    )  # fmt: skip

    @functools.cache
    def spent(parts: _Parts) -> int:
        return count(SYSTEM) + count(_content(task, state, files, parts, extent.whole))

    def fitted(parts: _Parts, most: int, cut: Callable[[int], _Parts], least: int = 0) -> _Parts:
        """The parts with as much of one as fits, at most `most` and at least `least`: the least where none fits."""
        if spent(parts) <= budget:
            return parts
        low, high = least, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if spent(cut(middle)) <= budget else (low, middle - 1)
        return cut(low)

    parts = fitted(parts, len(history), lambda n: replace(parts, steps=parts.steps[len(parts.steps) - n :]), least=1)
    parts = fitted(parts, extent.preview, lambda n: replace(parts, preview=_preview(task, n)))
    if newest and spent(parts) > budget:
        parts = replace(parts, steps=(_told(newest),))
        most = len(newest.observation)
        parts = fitted(
            parts, most, lambda n: replace(parts, steps=(_told(_cut(newest, n)),)), least=min(MIN_OBSERVATION, most)
        )
    described, problem = parts.descriptor, task.problem
    parts = fitted(parts, len(described), lambda n: replace(parts, descriptor=_end(described, n)))
    parts = fitted(
        parts, len(problem), lambda n: replace(parts, problem=_end(problem, n)), least=min(MIN_PROBLEM, len(problem))
    )
    parts = fitted(parts, 0, lambda _: replace(parts, steps=()))
    lines = script.removesuffix("\n").count("\n") + 1
    focus = _error_line(task, newest)
    parts = fitted(
        parts, lines, lambda n: replace(parts, script=_in_part(task, script, n, focus)), least=min(MIN_LINES, lines)
    )
    if spent(parts) > budget:
        raise PromptError(
            f"task {task.id}: its script, or {MIN_LINES} lines of it, and the instructions take {spent(parts)} tokens, "
            f"over the budget of {budget}: raise the budget or shorten {task.script}"
        )
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": _content(task, state, files, parts, extent.whole)},
    ]


def folded(messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The messages with what the system says before what the user says, in the user's turn."""
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    others = [dict(message) for message in messages if message["role"] != "system"]
    if system.strip() and others:
        others[0]["content"] = f"{system}\n\n{others[0]['content']}"
    return others


def _content(task: Task, state: State, files: Mapping[str, str], parts: _Parts, whole: bool) -> str:
    names = [*files, *sorted(task.editable - {*files, DESCRIPTOR})]
    others = ", ".join([name for name in names if name != task.script][:MAX_NAMES])
    native = task.actions == "native"
    shown = [
        parts.problem,
        f"{DESCRIPTOR}:\n{parts.descriptor}" if parts.descriptor else "",
        f"Metric: {task.metric} ({GOAL[task.direction.sign]}). {_scores(task, state)}",
        f"Data and other files:\n{parts.preview}" if parts.preview else "",
        parts.script,
        f"Other files: {others}" if others else "",
        *parts.steps,
        (WHOLE_FORMAT if native and whole else FORMATS[task.actions]) + (SHELL_FORMAT if task.shell else ""),
        f"Files that a run leaves as {', '.join(task.keep)} are there in later runs ({task.keep_mb} MiB)."
        if task.keep
        else "",
    ]
    return "\n".join(filter(None, shown))


def _scores(task: Task, state: State) -> str:
    """Where the state stands, and where it started if that differs."""
    if state.score is not None:
        now = f"Now {state.score:.5g}"
    elif state.unrun and state.reference is not None:
        now = f"Not run since it was changed, before it was {state.reference:.5g}"
    elif state.reference is not None:
        now = f"Now the script fails, before it was {state.reference:.5g}"
    else:
        now = "Not measured yet"
    start = f", at the start {task.m_init:.5g}" if task.m_init is not None and task.m_init != state.reference else ""
    return f"{now}{start}."


def _descriptor(task: Task, characters: int) -> str:
    """The task's description of its files, without the problem if that is repeated there."""
    file = shown_file(task.env_dir, DESCRIPTOR) if characters else None
    if not file:
        return ""
    with file.open("rb") as opened:
        text = escaped(opened.read(MAX_DESCRIPTOR_BYTES).decode(errors="replace"))
    return _end(text.replace(task.problem, "").strip(), characters)


def _preview(task: Task, characters: int) -> str:
    if not characters or not task.env_dir.is_dir():
        return ""
    return preview(task.env_dir, frozenset({task.script, DESCRIPTOR}), characters)


def _whole(task: Task, script: str) -> str:
    return f"{task.script}:\n```\n{script}```"


def _in_part(task: Task, script: str, most: int, focus: int) -> str:
    """At most so many lines of a script, cut and numbered: its ends, and those around line `focus` (0: none)."""
    lines = script.removesuffix("\n").split("\n")
    chosen = _chosen(len(lines), most, focus)
    rows: list[str] = []
    for before, number in zip([0, *chosen], chosen, strict=False):
        rows += ["…"] if number > before + 1 else []
        rows.append(f"{number}: {lines[number - 1][:MAX_INSPECTED_WIDTH]}")
    name = "Inspect" if task.actions == "native" else "Inspect Script Lines"
    text = "\n".join([*rows, "…"] if chosen[-1] < len(lines) else rows)
    return (
        f"{task.script}, {len(chosen)} of its {len(lines)} lines, each after its number ({name} shows more):\n"
        f"```\n{text}\n```"
    )


def _chosen(lines: int, most: int, focus: int) -> list[int]:
    """Numbers of the lines that are shown, ascending: half of them around the focus, the rest at both ends."""
    around = most // 2 if 0 < focus <= lines else 0
    first = max(1, min(focus - around // 2, lines - around + 1)) if around else 1
    chosen = set(range(first, first + around))
    ends = [number for pair in zip(range(1, lines + 1), range(lines, 0, -1), strict=True) for number in pair]
    for number in ends:
        if len(chosen) >= most:
            break
        chosen.add(number)
    return sorted(chosen)


def _error_line(task: Task, newest: Step | None) -> int:
    """The line of the script that the newest observation names last as that of an error; 0 where it names none."""
    found = ERROR_LINE.findall(newest.observation) if newest else []
    name = task.script.rpartition("/")[2]
    return next((int(line) for file, line in reversed(found) if file == name), 0)


def _told(step: Step, whole: bool = False) -> str:
    if whole:
        return f"You wrote:\n{step.action.strip()}\nResult: {step.observation}"
    return f"Tried: {_gist(step.action)}\nResult: {step.observation}"


def _gist(action: str) -> str:
    """The thought of a past action, or its first line."""
    lines = [line.strip().replace("**", "") for line in action.strip().splitlines()] or [""]
    thoughts = [line.removeprefix("Thought:").strip() for line in lines if line.startswith("Thought:")]
    return (thoughts or lines)[0][:MAX_THOUGHT]


def _cut(step: Step, characters: int) -> Step:
    return Step(step.action, without_middle(step.observation, characters))


def _end(text: str, characters: int) -> str:
    """The text without its middle; most of what is kept is of its end."""
    return without_middle(text, characters, CUT, end=0.7) if characters >= min(len(text), LEAST) else ""
