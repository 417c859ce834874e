"""MLAgentBench's actions (arXiv 2310.03302), for task folders of that benchmark.

    Thought: …
    Action: Inspect Script Lines
    Action Input: {"script_name": "train.py", "start_line_number": "1", "end_line_number": "40"}

`parse` reads such a text; `resolve` turns the action into one of `envs.actions`, or into the observation of an action
that changes and runs nothing. Those that need another model ask the editor: the policy itself, or an endpoint
(`envs.editor`). Every change of a file is followed by a run of the task's script, so that each step has a score; only
the research log is written without one. Invariants: as in `envs.actions`; what the editor answers is untrusted text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from envs import actions, changes
from envs.actions import EMPHASIS, HEADER, Execute, FinalAnswer, Inspect, InvalidAction, Undo, Write
from envs.records import Fault, Task

Editor = Callable[[str], str]
"""Prompt → completion of another model."""

LOG = "research_log.log"
MAX_SHOWN = 100
"""Lines that Inspect Script Lines and Read File show at most."""
ACTIONS: dict[str, tuple[str, ...]] = {
    "List Files": ("dir_path",),
    "Read File": ("file_name",),
    "Write File": ("file_name", "content"),
    "Append File": ("file_name", "content"),
    "Copy File": ("source", "destination"),
    "Inspect Script Lines": ("script_name", "start_line_number", "end_line_number"),
    "Undo Edit Script": ("script_name",),
    "Execute Script": ("script_name",),
    "Final Answer": ("final_answer",),
    "Request Help": ("request",),
    "Understand File": ("file_name", "things_to_look_for"),
    "Edit Script (AI)": ("script_name", "edit_instruction", "save_name"),
    "Edit Script Segment (AI)": (
        "script_name", "start_line_number", "end_line_number", "edit_instruction", "save_name",
    ),
    "Reflection": ("things_to_reflect_on",),
    "Append Summary to Research Log": ("content",),
    "Retrieval from Research Log": ("current_plan",),
}  # fmt: skip
"""Names and the keys of their input."""
FORMAT = "Answer with:\nThought: <idea>\nAction: <name>\nAction Input: <JSON with these keys>\nActions:\n" + "\n".join(
    f"{name}: {', '.join(keys)}" for name, keys in ACTIONS.items()
)
INPUT = re.compile(r"^[ \t]*(?:#{1,6}[ \t]+)?\*{0,2}Action Input(?:\*\*)?:\*{0,2}", re.MULTILINE)
OPENING = re.compile(r"^```\w*\s*")
CODE = re.compile(r"```(?:python)?[ \t]*\n(?P<code>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class ResearchAction:
    """One action of the benchmark with its arguments, all of them text."""

    name: str
    arguments: Mapping[str, str]

    @property
    def kind(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Note:
    """A line for the research log."""

    text: str


def parse(text: str) -> ResearchAction:
    """The action that `text` writes.

    Raises:
        InvalidAction: there is not exactly one action, or its input is not JSON with that action's keys.
    """
    text = text.replace("\r\n", "\n")
    start = INPUT.search(text)
    head = text[: start.start()] if start else text
    if not text.strip():
        raise InvalidAction("nothing stands there, or nothing after the thinking: write an action", Fault.EMPTY)
    plain = EMPHASIS.sub("", head)
    headers = [found["name"].strip() for found in HEADER.finditer(plain) if found["name"].strip()]
    if len(headers) != 1 or start is None:
        fault = Fault.SEVERAL_ACTIONS if len(headers) > 1 else Fault.BAD_ARGUMENT if headers else Fault.NO_ACTION
        raise InvalidAction("write one line `Action: NAME` and then `Action Input: {JSON}`", fault)
    names = {name.lower(): name for name in ACTIONS}
    if (name := names.get(headers[0].lower())) is None:
        raise InvalidAction(f"there is no action {headers[0][:40]!r}: use {', '.join(ACTIONS)}", Fault.UNKNOWN_ACTION)
    try:
        given, _ = json.JSONDecoder(strict=False).raw_decode(OPENING.sub("", text[start.end() :].lstrip(), count=1))
    except (ValueError, RecursionError) as error:
        raise InvalidAction(f"the Action Input of {name} is not JSON: {error}", Fault.BAD_ARGUMENT) from error
    if not isinstance(given, dict) or not all(isinstance(value, str | int) for value in given.values()):
        raise InvalidAction(f"the Action Input of {name} must be a JSON object of texts", Fault.BAD_ARGUMENT)
    if missing := [key for key in ACTIONS[name] if key not in given]:
        raise InvalidAction(f"{name} needs {', '.join(ACTIONS[name])}: {missing[0]} is missing", Fault.BAD_ARGUMENT)
    return ResearchAction(name, {key: str(given[key]) for key in ACTIONS[name]})


def resolve(
    action: ResearchAction, files: Mapping[str, str], task: Task, editor: Editor | None
) -> actions.Action | Note | str:
    """What the action comes to: an action of `envs.actions`, a note, or an observation.

    files: the editable files, path → text.

    Raises:
        InvalidAction: an argument is refused, or there is no editor for an action that needs one.
    """
    given = action.arguments
    match action.name:
        case "List Files":
            return _listed(given["dir_path"], files, task)
        case "Read File":
            return Inspect(actions.checked_path(given["file_name"]), 1, MAX_SHOWN)
        case "Inspect Script Lines":
            start, end = _lines(given)
            return Inspect(actions.checked_path(given["script_name"]), start, min(end, start + MAX_SHOWN - 1))
        case "Write File":
            return Write(actions.checked_path(given["file_name"]), given["content"])
        case "Append File":
            path = actions.checked_path(given["file_name"])
            return Write(path, _present(path, files, task) + given["content"])
        case "Copy File":
            return Write(
                actions.checked_path(given["destination"]),
                changes.text_of(actions.checked_path(given["source"]), files, task),
            )
        case "Undo Edit Script":
            return Undo()
        case "Execute Script":
            path = actions.checked_path(given["script_name"])
            changes.require_script(path, files, task)
            return Execute(path)
        case "Final Answer":
            return FinalAnswer()
        case "Request Help":
            return "no person is there to help: go on with the actions you have"
        case "Append Summary to Research Log":
            return Note(given["content"])
    if editor is None:
        raise InvalidAction(f"{action.name} needs another model, and none is configured (editor.*)")
    return _asked(action.name, given, files, task, editor)


def _asked(
    name: str, given: Mapping[str, str], files: Mapping[str, str], task: Task, editor: Editor
) -> actions.Action | str:
    """The actions that another model carries out."""
    problem, notes = f"The research problem: {task.problem}\n", f"The research log:\n{files.get(LOG, '(empty)')}\n"
    if name == "Understand File":
        content = changes.text_of(actions.checked_path(given["file_name"]), files, task)
        return editor(f"{given['file_name']}:\n```\n{content}\n```\nSay briefly: {given['things_to_look_for']}")
    if name == "Reflection":
        return editor(f"{problem}{notes}Reflect, briefly and truthfully, on this: {given['things_to_reflect_on']}")
    if name == "Retrieval from Research Log":
        return editor(
            f"{problem}The plan: {given['current_plan']}\n{notes}List briefly what in the log helps the plan."
        )
    path = actions.checked_path(given["script_name"])
    lines = _present(path, files, task).split("\n")
    start, end = _lines(given) if "start_line_number" in given else (1, len(lines))
    segment = "\n".join(lines[start - 1 : end])
    answer = editor(
        f"Python code:\n```python\n{segment}\n```\nChange it as told, and nothing else: {given['edit_instruction']}\n"
        "Answer with the whole code after the change, between ```python and ```."
    )
    if not (code := CODE.search(answer)):
        raise InvalidAction(f"the editor answered without a block of code: {answer[:200]!r}")
    changed = [*lines[: start - 1], *code["code"].rstrip("\n").split("\n"), *lines[end:]]
    return Write(actions.checked_path(given["save_name"]), "\n".join(changed).rstrip("\n") + "\n")


def _present(path: str, files: Mapping[str, str], task: Task) -> str:
    """Text of a file that may be changed; empty where there is none."""
    return changes.text_of(path, files, task) if path in files or path in task.editable else ""


def _listed(folder: str, files: Mapping[str, str], task: Task) -> str:
    inside = "" if folder.strip() in ("", ".", "./") else f"{actions.checked_path(folder)}/"
    names = {name for name in (*files, *task.read_only, *task.editable) if name.startswith(inside)}
    if not names:
        raise InvalidAction(f"there is no folder {folder!r}")
    below = [name.removeprefix(inside).split("/") for name in names]
    return "\n".join(sorted({f"{first}/" if rest else first for first, *rest in below}))


def _lines(given: Mapping[str, str]) -> tuple[int, int]:
    try:
        start, end = int(given["start_line_number"]), int(given["end_line_number"])
    except ValueError as error:
        raise InvalidAction(
            "start_line_number and end_line_number must be whole numbers", Fault.BAD_ARGUMENT
        ) from error
    if not 1 <= start <= end:
        raise InvalidAction(f"lines go from 1 up, not from {start} to {end}", Fault.BAD_ARGUMENT)
    return start, end
