"""The actions of the policy: the text it writes, parsed into one of six kinds, and edits applied to files.

    Thought: one line of reasoning (optional)
    Action: Edit | Write | Execute | Inspect | Undo | Final Answer
    File: train.py (optional; the task's script unless given)

Edit is followed by one or more search/replace blocks, Write by the whole file in a ``` fence, and Inspect by an
optional `Lines: 10-40`. Invariants: parsing and applying are pure; what is not exactly an action is `InvalidAction`,
whose message tells the policy what to do instead; no path leaves the workspace.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

from envs.records import Task

MAX_FILE_CHARACTERS = 40_000
MAX_INSPECTED_LINES = 100

HEADER = re.compile(r"^[ \t]*Action:[ \t]*(?P<name>[A-Za-z ]+?)[ \t]*$", re.MULTILINE)
ARGUMENT = r"^[ \t]*{}:[ \t]*(?P<value>\S.*?)[ \t]*$"
BLOCK = re.compile(
    r"^<{5,9} SEARCH[ \t]*\n(?P<search>.*?)^={5,9}[ \t]*\n(?P<replace>.*?)^>{5,9} REPLACE[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
FENCE = re.compile(r"^```[\w]*[ \t]*\n(?P<content>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


class InvalidAction(ValueError):
    """A text that is no action, or an action whose arguments are refused; the message says what to do."""


@dataclass(frozen=True)
class Edit:
    """Replace text in a file: each block's search text must occur exactly once."""

    kind: ClassVar[str] = "edit"
    path: str
    blocks: tuple[tuple[str, str], ...]
    """(search, replace) in the order of application."""


@dataclass(frozen=True)
class Write:
    """Replace a file, or make a new one."""

    kind: ClassVar[str] = "write"
    path: str
    content: str


@dataclass(frozen=True)
class Execute:
    """Run the script as it is."""

    kind: ClassVar[str] = "execute"


@dataclass(frozen=True)
class Inspect:
    """Show lines of a file."""

    kind: ClassVar[str] = "inspect"
    path: str
    start: int
    """First line, from 1."""
    end: int
    """Last line, inclusive."""


@dataclass(frozen=True)
class Undo:
    """Take the last edit back."""

    kind: ClassVar[str] = "undo"


@dataclass(frozen=True)
class FinalAnswer:
    """Declare the episode done."""

    kind: ClassVar[str] = "final answer"


Action = Edit | Write | Execute | Inspect | Undo | FinalAnswer


def parse(text: str, task: Task) -> Action:
    """The action that `text` writes.

    Raises:
        InvalidAction: there is not exactly one action, or an argument is missing or refused.
    """
    headers = list(HEADER.finditer(text))
    if len(headers) != 1:
        raise InvalidAction(f"write exactly one line `Action: NAME`; there are {len(headers)}")
    body = text[headers[0].end() :]
    path = _path(_argument("File", body) or task.script)
    match headers[0]["name"].lower():
        case "edit":
            if not (blocks := tuple((b["search"], b["replace"]) for b in BLOCK.finditer(body))):
                raise InvalidAction("Edit needs a block <<<<<<< SEARCH … ======= … >>>>>>> REPLACE")
            return Edit(path, blocks)
        case "write":
            if not (fence := FENCE.search(body)):
                raise InvalidAction("Write needs the whole file between ``` lines")
            return Write(path, fence["content"])
        case "execute":
            return Execute()
        case "inspect":
            return Inspect(path, *_lines(_argument("Lines", body)))
        case "undo":
            return Undo()
        case "final answer":
            return FinalAnswer()
        case name:
            raise InvalidAction(f"there is no action {name!r}: use Edit, Write, Execute, Inspect, Undo or Final Answer")


def apply(action: Edit | Write, files: Mapping[str, str], task: Task) -> dict[str, str]:
    """The changed files, path → new text.

    Raises:
        InvalidAction: the file may not be changed, a search text does not occur exactly once, or nothing changes.
    """
    if action.path in task.read_only or (action.path not in files and (task.env_dir / action.path).exists()):
        raise InvalidAction(f"{action.path} is read-only")
    if isinstance(action, Write):
        new = action.content
    else:
        new = _readable(action.path, files)
        for search, replacement in action.blocks:
            if (count := new.count(search) if search.strip() else 0) != 1:
                raise InvalidAction(f"the SEARCH text occurs {count} times in {action.path}; it must occur exactly once")
            new = new.replace(search, replacement)
    if new == files.get(action.path):
        raise InvalidAction(f"the action leaves {action.path} as it is")
    if len(new) > MAX_FILE_CHARACTERS:
        raise InvalidAction(f"{action.path} would have {len(new)} characters; at most {MAX_FILE_CHARACTERS} are allowed")
    return {action.path: new}


def inspect(action: Inspect, files: Mapping[str, str], task: Task) -> str:
    """The asked-for lines with their numbers, of an editable file or the head of a task's data file.

    Raises:
        InvalidAction: there is no such file, or no such lines.
    """
    if action.path in files:
        lines = files[action.path].splitlines()
    elif (file := task.env_dir / action.path).is_file():
        with file.open(errors="replace") as opened:
            lines = [line.rstrip("\n") for _, line in zip(range(action.end), opened)]
    else:
        raise InvalidAction(f"there is no file {action.path}")
    shown = [f"{number}: {line}" for number, line in enumerate(lines, 1) if action.start <= number <= action.end]
    if not shown:
        raise InvalidAction(f"{action.path} has no lines {action.start}-{action.end}")
    return "\n".join(shown)


def _readable(path: str, files: Mapping[str, str]) -> str:
    if path not in files:
        raise InvalidAction(f"there is no file {path} to edit; its text must have been written before")
    return files[path]


def _argument(name: str, body: str) -> str | None:
    """Value of a `Name: value` line above the first block or fence."""
    head = re.split(r"^(?:<{5,9} SEARCH|```)", body, maxsplit=1, flags=re.MULTILINE)[0]
    found = re.search(ARGUMENT.format(name), head, re.MULTILINE)
    return found["value"] if found else None


def _path(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise InvalidAction(f"the path {name!r} must be relative and stay in the working folder")
    return str(path)


def _lines(given: str | None) -> tuple[int, int]:
    if given is None:
        return 1, MAX_INSPECTED_LINES
    if not (found := re.fullmatch(r"(\d{1,6})\s*-\s*(\d{1,6})", given)):
        raise InvalidAction(f"Lines must be like 10-40, not {given!r}")
    start, end = int(found[1]), int(found[2])
    if not 1 <= start <= end:
        raise InvalidAction(f"Lines {given} is no range")
    return start, min(end, start + MAX_INSPECTED_LINES - 1)
