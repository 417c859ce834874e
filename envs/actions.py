"""The actions of the policy: the text it writes, parsed into one of seven kinds.

    Thought: one line of reasoning (optional)
    Action: Edit | Write | Execute | Inspect | Undo | Final Answer, and Shell where the task allows it
    File: train.py (optional; the task's script unless given)

Edit is followed by one or more search/replace blocks, Write by the whole file in a ``` fence, Shell by commands in one,
and Inspect by an optional `Lines: 10-40`. A line `File: NAME` between blocks says that those after it are of another
file; `Run: no` leaves out the run that otherwise follows Edit, Write and what Shell changes. What capable models put
around that is passed over: bold headers, a fence around an edit or around everything, prose before the action and after
its block. Invariants: parsing is pure; what is not exactly one action is `InvalidAction`, whose message tells the
policy what to do, and nothing is guessed; no path leaves the workspace. `changes.py` has what actions do to files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import ClassVar

from envs.records import Fault, Task

MAX_FILE_BYTES = 40_000
MAX_INSPECTED_LINES = 60

HEADER = re.compile(r"^[ \t]*Action:(?P<name>.*)$", re.MULTILINE)
EMPHASIS = re.compile(r"^[ \t]*#{1,6}[ \t]|[*`]", re.MULTILINE)
"""Marks of Markdown that no name, path or range of lines has in it."""
ARGUMENT = re.compile(r"(?P<name>File|Lines|Run):(?P<value>.*)")
NEXT_FILE = re.compile(r"File:[ \t]*(?P<path>\S+)")
PAYLOAD = re.compile(r"<{5,9} SEARCH|```")
LIKE_ARGUMENT = re.compile(r"(?!Thought:)\w+:|(?:File|Lines|Run)\b")
"""A line that is meant as an argument, though it may be none."""
BLOCK = tuple(map(re.compile, (r"<{5,9} SEARCH[ \t]*", r"={5,9}[ \t]*", r">{5,9} REPLACE[ \t]*")))
FENCE = tuple(map(re.compile, (r"```\w*[ \t]*", r"```[ \t]*")))
BLANKS = " \t"
PATH_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
MAX_PATH_PARTS = 4


class InvalidAction(ValueError):
    """A text that is no action, or an action whose arguments are refused; the message says what to do."""

    def __init__(self, message: str, fault: Fault = Fault.REFUSED):
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True)
class Edit:
    """Replace lines of a file: each block's search lines must occur exactly once.

    They may all be indented by as much more, or less, than in the file: then so are the lines in their place.
    """

    kind: ClassVar[str] = "edit"
    path: str
    blocks: tuple[tuple[str, str], ...]
    """(search, replace), whole lines, in the order of application."""
    run: bool = True
    """Whether the task's script is run after it."""


@dataclass(frozen=True)
class Write:
    """Replace a file, or make a new one."""

    kind: ClassVar[str] = "write"
    path: str
    content: str
    run: bool = True


@dataclass(frozen=True)
class Several:
    """Edits, or whole files, of several files: all of them or none."""

    kind: str
    parts: tuple[Edit | Write, ...]
    run: bool = True


@dataclass(frozen=True)
class Execute:
    """Run a script as it is."""

    kind: ClassVar[str] = "execute"
    path: str | None = None
    """None: the task's script."""


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
class Shell:
    """Run commands in the workspace; what they change there is the next state's."""

    kind: ClassVar[str] = "shell"
    command: str
    run: bool = True
    """Whether the task's script is run after a change."""


@dataclass(frozen=True)
class Undo:
    """Take the last edit back."""

    kind: ClassVar[str] = "undo"


@dataclass(frozen=True)
class FinalAnswer:
    """Declare the episode done."""

    kind: ClassVar[str] = "final answer"


Change = Edit | Write | Several
Action = Change | Execute | Inspect | Shell | Undo | FinalAnswer
NAMES = tuple(kind.kind for kind in (Edit, Write, Execute, Inspect, Undo, FinalAnswer))


def parse(text: str, task: Task) -> Action:
    """The action that `text` writes.

    Raises:
        InvalidAction: there is not exactly one action, or an argument is missing or refused.
    """
    name, after = _header(text.replace("\r\n", "\n").split("\n"))
    if name not in (names := (*NAMES, Shell.kind) if task.shell else NAMES):
        raise InvalidAction(
            f"there is no action {name[:40]!r}: use {', '.join(names).title()}", Fault.UNKNOWN_ACTION
        )  # fmt: skip
    first = next((number for number, line in enumerate(after) if _begins_payload(line)), len(after))
    arguments, payload = _arguments(after[:first]), after[first:]
    path = checked_path(arguments.get("File", task.script))
    if name in ("edit", "write"):
        changed = _edits(path, payload) if name == "edit" else _writes(path, payload)
        run = _yes(arguments.get("Run", "yes"))
        return replace(changed[0], run=run) if len(changed) == 1 else Several(name, changed, run)
    if name == "shell":
        return Shell(_commands(payload), _yes(arguments.get("Run", "yes")))
    if payload:
        raise InvalidAction(
            f"{name.title()} takes no block: use Edit to change lines or Write for a whole file", Fault.BAD_BLOCK
        )
    if name == "inspect":
        return Inspect(path, *_lines(arguments.get("Lines")))
    if name == "execute":
        return Execute(path if "File" in arguments else None)
    return {"undo": Undo, "final answer": FinalAnswer}[name]()


def _edits(path: str, payload: Sequence[str]) -> tuple[Edit | Write, ...]:
    """An edit of each file; path: of the first one."""
    blocks = _blocks(BLOCK, payload, path, "Edit needs whole blocks <<<<<<< SEARCH … ======= … >>>>>>> REPLACE")
    of_files: dict[str, list[tuple[str, str]]] = {}
    for name, (search, replacement) in blocks:
        of_files.setdefault(name, []).append((search, replacement))
    return tuple(Edit(name, tuple(replaced)) for name, replaced in of_files.items())


def _writes(path: str, payload: Sequence[str]) -> tuple[Edit | Write, ...]:
    blocks = _blocks(FENCE, payload, path, "Write needs the whole file between two ``` lines")
    names = [name for name, _ in blocks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InvalidAction(
            f"Write takes each file once: there are two ``` blocks of {twice[0]}; a line File: before a block says "
            "whose it is",
            Fault.BAD_BLOCK,
        )
    return tuple(Write(name, content) for name, (content,) in blocks)


def _commands(payload: Sequence[str]) -> str:
    complaint = "Shell needs its commands between two ``` lines, once"
    blocks = _blocks(FENCE, payload, "", complaint)
    if len(blocks) != 1 or not (command := blocks[0][1][0]).strip():
        raise InvalidAction(complaint, Fault.BAD_BLOCK)
    if "\0" in command or len(command.encode(errors="replace")) > MAX_FILE_BYTES:
        raise InvalidAction(f"commands are text of at most {MAX_FILE_BYTES} bytes")
    return command


def _header(lines: Sequence[str]) -> tuple[str, list[str]]:
    """The name of the only line `Action: NAME`, in lower case, and the lines after that line.

    What stands within fences and blocks is the content of files, and no header; but a fence in which the only header
    stands is one around the action.

    Raises:
        InvalidAction: there is no such line, or more than one.
    """
    if not any(line.strip() for line in lines):
        raise InvalidAction("nothing stands there, or nothing after the thinking: write an action", Fault.EMPTY)
    if not (headers := _headers(lines)):
        lines = _unfenced(lines)
        headers = _headers(lines)
    if len(headers) != 1:
        fault = Fault.SEVERAL_ACTIONS if headers else Fault.NO_ACTION
        raise InvalidAction(f"write one line `Action: NAME`, outside of blocks; there are {len(headers)}", fault)
    ((number, name),) = headers
    return name.lower(), list(lines[number + 1 :])


def _headers(lines: Sequence[str]) -> list[tuple[int, str]]:
    """(number, name) of each header outside of fences and blocks."""
    found, ends = [], None
    for number, line in enumerate(lines):
        if ends:
            ends = None if ends.fullmatch(line) else ends
        elif BLOCK[0].fullmatch(line):
            ends = BLOCK[-1]
        elif FENCE[0].fullmatch(line):
            ends = FENCE[-1]
        elif (match := HEADER.fullmatch(EMPHASIS.sub("", line))) and (name := match["name"].strip(BLANKS)):
            found.append((number, name))
    return found


def _unfenced(lines: Sequence[str]) -> list[str]:
    """The lines without the fence in which the first header stands, where that is closed by the last line of all."""
    number = next((at for at, line in enumerate(lines) if HEADER.fullmatch(EMPHASIS.sub("", line))), 0)
    opened = [at for at in range(number) if _begins_payload(lines[at])]
    last = max(at for at, line in enumerate(lines) if line.strip())
    fences = sum(bool(FENCE[0].fullmatch(line)) for line in lines)
    if len(opened) % 2 and FENCE[0].fullmatch(lines[opened[-1]]) and FENCE[1].fullmatch(lines[last]) and not fences % 2:
        return [line for at, line in enumerate(lines) if at not in (opened[-1], last)]
    return list(lines)


def _begins_payload(line: str) -> bool:
    return bool(PAYLOAD.match(line))


def checked_path(name: str) -> str:
    """A relative path in the working folder, as written by the policy.

    Raises:
        InvalidAction: it leads elsewhere, or has unusual characters.
    """
    parts = PurePosixPath(name).parts
    if not 1 <= len(parts) <= MAX_PATH_PARTS or not all(PATH_PART.fullmatch(part) for part in parts):
        raise InvalidAction(
            f"{name[:60]!r} is no path in the working folder: write one like {'data/notes.txt'!r}", Fault.BAD_ARGUMENT
        )
    return "/".join(parts)


def _blocks(
    marks: Sequence[re.Pattern[str]], payload: Sequence[str], path: str, complaint: str
) -> list[tuple[str, list[str]]]:
    """(file, the texts between the lines that are such marks) of each block; `File:` lines name the file of those after
    them, at first it is `path`, and whatever else stands around blocks is passed over.

    One pass over the lines: a pattern over all of them would try each line as the end of each other.

    Raises:
        InvalidAction: there is no block, or none after a `File:` line, or a mark too many or too few.
    """
    blocks: list[tuple[str, list[list[str]]]] = []
    position, awaited = 0, True
    for line in payload:
        if marks[position].fullmatch(line):
            position = (position + 1) % len(marks)
            if position == 1:
                blocks.append((path, []))
                awaited = False
            if position:
                blocks[-1][1].append([])
        elif position:
            blocks[-1][1][-1].append(f"{line}\n")
        elif named := NEXT_FILE.fullmatch(EMPHASIS.sub("", line).strip(BLANKS)):
            path, awaited = checked_path(named["path"]), True
        elif any(mark.fullmatch(line) for mark in marks):
            raise InvalidAction(complaint, Fault.BAD_BLOCK)
    if position or awaited:
        raise InvalidAction(complaint, Fault.BAD_BLOCK)
    return [(name, ["".join(lines) for lines in block]) for name, block in blocks]


def _arguments(lines: Sequence[str]) -> dict[str, str]:
    """The `File:`, `Lines:` and `Run:` lines between the action's name and its blocks; prose there is passed over."""
    arguments = {}
    for line in lines:
        plain = EMPHASIS.sub("", line).strip(BLANKS)
        if not LIKE_ARGUMENT.match(plain):
            continue
        match = ARGUMENT.fullmatch(plain)
        value = match["value"].strip(BLANKS) if match else ""
        if not value or match["name"] in arguments:
            raise InvalidAction(
                f"after the Action line comes File:, Lines:, Run: or a block, not {line.strip()[:40]!r}",
                Fault.BAD_ARGUMENT,
            )
        arguments[match["name"]] = value
    return arguments


def _yes(given: str) -> bool:
    if given.lower() not in ("yes", "no"):
        raise InvalidAction(f"Run must be yes or no, not {given[:40]!r}", Fault.BAD_ARGUMENT)
    return given.lower() == "yes"


def _lines(given: str | None) -> tuple[int, int]:
    if given is None:
        return 1, MAX_INSPECTED_LINES
    if not (match := re.fullmatch(r"(\d{1,6})\s*-\s*(\d{1,6})", given)) or not 1 <= int(match[1]) <= int(match[2]):
        raise InvalidAction(f"Lines must be like 10-40, not {given[:40]!r}", Fault.BAD_ARGUMENT)
    start, end = int(match[1]), int(match[2])
    return start, min(end, start + MAX_INSPECTED_LINES - 1)
