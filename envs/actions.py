"""The actions of the policy: the text it writes, parsed into one of six kinds, and edits applied to files.

    Thought: one line of reasoning (optional)
    Action: Edit | Write | Execute | Inspect | Undo | Final Answer
    File: train.py (optional; the task's script unless given)

Edit is followed by one or more search/replace blocks, Write by the whole file in a ``` fence, and Inspect by an
optional `Lines: 10-40`. What capable models put around that is passed over: bold headers, a fence around an edit or
around everything, prose before the action and after its block. Invariants: parsing and applying are pure; what is not
exactly one action is `InvalidAction`, whose message tells the policy what to do, and nothing is guessed; no path leaves
the workspace or hides one of the task's files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from envs.records import Fault, Task

MAX_FILE_BYTES = 40_000
MAX_FILES = 20
"""Editable files of one state: the script and what the agent wrote."""
MAX_INSPECTED_LINES = 60
MAX_INSPECTED_WIDTH = 160
MAX_INSPECTED_BYTES = 32 << 20
"""How far into a file lines are looked for."""
PART_BYTES = 1 << 16
"""Of a line, what is read at once."""
SUBMISSION = "submission.csv"
"""Written by the script, never by the agent."""

HEADER = re.compile(r"^[ \t]*Action:(?P<name>.*)$", re.MULTILINE)
EMPHASIS = re.compile(r"^[ \t]*#{1,6}[ \t]|[*`]", re.MULTILINE)
"""Marks of Markdown that no name, path or range of lines has in it."""
ARGUMENT = re.compile(r"(?P<name>File|Lines):(?P<value>.*)")
PAYLOAD = re.compile(r"<{5,9} SEARCH|```")
LIKE_ARGUMENT = re.compile(r"(?!Thought:)\w+:|(?:File|Lines)\b")
"""A line that is meant as an argument, though it may be none."""
BLOCK = tuple(map(re.compile, (r"<{5,9} SEARCH[ \t]*", r"={5,9}[ \t]*", r">{5,9} REPLACE[ \t]*")))
FENCE = tuple(map(re.compile, (r"```\w*[ \t]*", r"```[ \t]*")))
BLANKS = " \t"
TAB = 4
"""Columns of a tab, where SEARCH lines with blanks are compared with a file that has tabs."""
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


@dataclass(frozen=True)
class Write:
    """Replace a file, or make a new one."""

    kind: ClassVar[str] = "write"
    path: str
    content: str


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
class Undo:
    """Take the last edit back."""

    kind: ClassVar[str] = "undo"


@dataclass(frozen=True)
class FinalAnswer:
    """Declare the episode done."""

    kind: ClassVar[str] = "final answer"


Action = Edit | Write | Execute | Inspect | Undo | FinalAnswer
NAMES = tuple(kind.kind for kind in (Edit, Write, Execute, Inspect, Undo, FinalAnswer))


def parse(text: str, task: Task) -> Action:
    """The action that `text` writes.

    Raises:
        InvalidAction: there is not exactly one action, or an argument is missing or refused.
    """
    name, after = _header(text.replace("\r\n", "\n").split("\n"))
    if name not in NAMES:
        raise InvalidAction(
            f"there is no action {name[:40]!r}: use {', '.join(NAMES).title()}", Fault.UNKNOWN_ACTION
        )  # fmt: skip
    first = next((number for number, line in enumerate(after) if _begins_payload(line)), len(after))
    arguments, payload = _arguments(after[:first]), after[first:]
    path = checked_path(arguments.get("File", task.script))
    if name == "edit":
        blocks = _blocks(BLOCK, payload, "Edit needs whole blocks <<<<<<< SEARCH … ======= … >>>>>>> REPLACE")
        return Edit(path, tuple((search, replacement) for search, replacement in blocks))
    if name == "write":
        contents = _blocks(FENCE, payload, "Write needs the whole file between two ``` lines")
        if len(contents) > 1:
            raise InvalidAction("Write takes one file: there are two ``` blocks", Fault.BAD_BLOCK)
        return Write(path, contents[0][0])
    if payload:
        raise InvalidAction(
            f"{name.title()} takes no block: use Edit to change lines or Write for a whole file", Fault.BAD_BLOCK
        )
    if name == "inspect":
        return Inspect(path, *_lines(arguments.get("Lines")))
    return {"execute": Execute, "undo": Undo, "final answer": FinalAnswer}[name]()


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


def apply(action: Edit | Write, files: Mapping[str, str], task: Task) -> dict[str, str]:
    """The changed files, path → new text.

    files: the editable files, path → text.

    Raises:
        InvalidAction: the file may not be changed, search lines do not occur exactly once, or nothing changes.
    """
    path = action.path
    _check_writable(path, files, task)
    new = action.content if isinstance(action, Write) else _edited(action, files)
    if new == files.get(path):
        raise InvalidAction(f"this leaves {path} as it is: change something", Fault.UNCHANGED)
    try:
        size = len(new.encode())
    except UnicodeEncodeError as error:
        raise InvalidAction(f"{path} would not be valid text") from error
    if size > MAX_FILE_BYTES:
        raise InvalidAction(f"{path} would have {size} bytes; at most {MAX_FILE_BYTES} are allowed")
    return {path: new}


def inspect(action: Inspect, files: Mapping[str, str], task: Task) -> str:
    """The asked-for lines with their numbers, of an editable file or of one of the task's; long lines are cut.

    Raises:
        InvalidAction: there is no such file, or no such lines.
    """
    if action.path in files:
        lines = _rows(files[action.path])
    elif (file := task.env_dir / action.path).is_file():
        lines = _first_lines(file, action.end)
    else:
        raise InvalidAction(f"there is no file {action.path}")
    shown = [
        f"{number}: {line[:MAX_INSPECTED_WIDTH]}"
        for number, line in enumerate(lines, 1)
        if action.start <= number <= action.end
    ]
    if not shown:
        raise InvalidAction(f"{action.path} has no lines {action.start}-{action.end}")
    return "\n".join(shown)


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


def _first_lines(file: Path, count: int) -> list[str]:
    """The first lines of a file of any size, cut, as far as its first `MAX_INSPECTED_BYTES` hold them."""
    lines: list[str] = []
    begins = True
    with file.open("rb") as opened:
        left = MAX_INSPECTED_BYTES
        while left > 0 and (part := opened.readline(min(left, PART_BYTES))):
            left -= len(part)
            if begins:
                if len(lines) == count:
                    break
                lines.append(part[: 4 * MAX_INSPECTED_WIDTH].decode(errors="replace").rstrip("\r\n"))
            begins = part.endswith(b"\n")
    return lines


def _edited(action: Edit, files: Mapping[str, str]) -> str:
    """Text of the file after the edit. Lines are matched whole, but for blanks at their ends; where that finds none,
    up to a common indentation, which is put back."""
    if action.path not in files:
        raise InvalidAction(f"there is no file {action.path} to edit: use Write to make it")
    lines = _rows(files[action.path])
    tabs = any(line.startswith("\t") for line in lines) and not any(line.startswith(" ") for line in lines)
    for search, replacement in action.blocks:
        wanted = [line.rstrip() for line in _rows(search)]
        if not any(wanted):
            raise InvalidAction("the SEARCH lines are empty: copy the lines to replace", Fault.NO_MATCH)
        place, again = _places([line.rstrip() for line in lines], wanted)
        if place is None:
            place, again = _shifted_places(lines, wanted)
        if place is None:
            raise InvalidAction(f"the SEARCH lines are not in {action.path}: copy them exactly", Fault.NO_MATCH)
        if again is not None:
            raise InvalidAction(
                f"the SEARCH lines occur more than once in {action.path}: add one that differs", Fault.AMBIGUOUS
            )
        shift = _columns(lines[place]) - _columns(wanted[0])
        lines[place : place + len(wanted)] = _indented(_rows(replacement), shift, tabs, action.path)
    return "".join(f"{line}\n" for line in lines)


def _places(lines: Sequence[str], wanted: Sequence[str]) -> tuple[int | None, int | None]:
    """Where the wanted lines begin for the first time, and for the second; a search in one text takes linear time."""
    text, needle = "".join(f"\n{line}" for line in (*lines, "")), "".join(f"\n{line}" for line in (*wanted, ""))
    first = text.find(needle)
    second = text.find(needle, first + 1) if first >= 0 else -1
    return tuple(None if found < 0 else text.count("\n", 0, found) for found in (first, second))


def _shifted_places(lines: Sequence[str], wanted: Sequence[str]) -> tuple[int | None, int | None]:
    """As `_places`, where the wanted lines may all be indented by as much more, or less; the first is not empty."""
    if not wanted[0]:
        return None, None
    text = "".join(f"\n{step}\n|{line}" for step, line in _steps(lines)) + "\n"
    (_, begins), *others = _steps(wanted)
    needle = f"\n|{begins}" + "".join(f"\n{step}\n|{line}" for step, line in others) + "\n"
    first = text.find(needle)
    second = text.find(needle, first + 1) if first >= 0 else -1
    return tuple(None if found < 0 else text.count("\n", 0, found) // 2 for found in (first, second))


def _steps(lines: Sequence[str]) -> list[tuple[int, str]]:
    """(columns that it is indented more than the line before, the line without blanks at its ends) of each line; empty
    ones count for nothing."""
    steps, last = [], 0
    for line in lines:
        text, columns = line.strip(), _columns(line)
        steps.append((columns - last, text) if text else (0, ""))
        last = columns if text else last
    return steps


def _columns(line: str) -> int:
    """That a line is indented."""
    expanded = line.expandtabs(TAB)
    return len(expanded) - len(expanded.lstrip(" "))


def _indented(new: Sequence[str], shift: int, tabs: bool, path: str) -> list[str]:
    """New lines, `shift` columns further right; tabs: the file that they come into is indented by tabs alone.

    Raises:
        InvalidAction: a line would begin left of the first column.
    """
    if not shift and not tabs:
        return list(new)
    indented = []
    for line in new:
        text, columns = line.lstrip(BLANKS), _columns(line) + shift
        if text and columns < 0:
            raise InvalidAction(
                f"the SEARCH lines are not in {path} at that indentation, and {text[:40]!r} has no room {-shift} "
                "columns further left: copy them exactly",
                Fault.NO_MATCH,
            )
        count, rest = divmod(columns, TAB) if tabs else (0, columns)
        indented.append("\t" * count + " " * rest + text if text else "")
    return indented


def _rows(text: str) -> list[str]:
    """Lines as Python counts them: split at newlines only."""
    return text.removesuffix("\n").split("\n") if text else []


def _check_writable(path: str, files: Mapping[str, str], task: Task) -> None:
    names = {*files, *task.read_only, task.script}
    if path in task.read_only:
        raise InvalidAction(f"{path} is read-only: change {task.script}")
    if path == SUBMISSION:
        raise InvalidAction(f"{SUBMISSION} is written by running {task.script}: change the script")
    if any(path.startswith(f"{name}/") or name.startswith(f"{path}/") for name in names):
        raise InvalidAction(f"{path} clashes with another file or folder: use another name")
    if path not in files and len(files) >= MAX_FILES:
        raise InvalidAction(f"there are {len(files)} files already: change one of them")


def _blocks(marks: Sequence[re.Pattern[str]], payload: Sequence[str], complaint: str) -> list[list[str]]:
    """The texts between the lines that are such marks, block after block; what stands around blocks is passed over.

    One pass over the lines: a pattern over all of them would try each line as the end of each other.

    Raises:
        InvalidAction: there is no block, or a mark too many or too few.
    """
    blocks: list[list[list[str]]] = []
    position = 0
    for line in payload:
        if marks[position].fullmatch(line):
            position = (position + 1) % len(marks)
            if position == 1:
                blocks.append([])
            if position:
                blocks[-1].append([])
        elif position:
            blocks[-1][-1].append(f"{line}\n")
        elif any(mark.fullmatch(line) for mark in marks):
            raise InvalidAction(complaint, Fault.BAD_BLOCK)
    if position or not blocks:
        raise InvalidAction(complaint, Fault.BAD_BLOCK)
    return [["".join(lines) for lines in block] for block in blocks]


def _arguments(lines: Sequence[str]) -> dict[str, str]:
    """The `File:` and `Lines:` lines between the action's name and its blocks; prose there is passed over."""
    arguments = {}
    for line in lines:
        plain = EMPHASIS.sub("", line).strip(BLANKS)
        if not LIKE_ARGUMENT.match(plain):
            continue
        match = ARGUMENT.fullmatch(plain)
        value = match["value"].strip(BLANKS) if match else ""
        if not value or match["name"] in arguments:
            raise InvalidAction(
                f"after the Action line comes File:, Lines: or a block, not {line.strip()[:40]!r}", Fault.BAD_ARGUMENT
            )
        arguments[match["name"]] = value
    return arguments


def _lines(given: str | None) -> tuple[int, int]:
    if given is None:
        return 1, MAX_INSPECTED_LINES
    if not (match := re.fullmatch(r"(\d{1,6})\s*-\s*(\d{1,6})", given)) or not 1 <= int(match[1]) <= int(match[2]):
        raise InvalidAction(f"Lines must be like 10-40, not {given[:40]!r}", Fault.BAD_ARGUMENT)
    start, end = int(match[1]), int(match[2])
    return start, min(end, start + MAX_INSPECTED_LINES - 1)
