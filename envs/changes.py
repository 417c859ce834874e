"""What the policy's actions do to files: edits applied, and files shown.

Invariants: pure but for reading the task's files; an action applies whole or not at all; what cannot be done is
`InvalidAction`, whose message tells the policy what to do; nothing that is written hides one of the task's files; how
much is read is bounded, whatever the size of a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from envs import matching
from envs.actions import MAX_FILE_BYTES, Change, Edit, Inspect, InvalidAction, Several, Write
from envs.preview import shown_file
from envs.records import Fault, Task

MAX_FILES = 20
"""Editable files of one state: the script and what the agent wrote."""
MAX_INSPECTED_WIDTH = 160
MAX_INSPECTED_BYTES = 32 << 20
"""How far into a file lines are looked for."""
PART_BYTES = 1 << 16
"""Of a line, what is read at once."""
SUBMISSION = "submission.csv"
"""Written by the script, never by the agent."""


def apply(action: Change, files: Mapping[str, str], task: Task) -> dict[str, str]:
    """The changed files, path → new text; of several, all or none.

    files: the editable files, path → text.

    Raises:
        InvalidAction: the file may not be changed, search lines do not occur exactly once, or nothing changes.
    """
    changed: dict[str, str] = {}
    for part in action.parts if isinstance(action, Several) else (action,):
        changed |= _applied(part, {**files, **changed}, task)
    return changed


def _applied(action: Edit | Write, files: Mapping[str, str], task: Task) -> dict[str, str]:
    path = action.path
    _check_writable(path, files, task)
    present = files.get(path)
    if present is None and path in task.editable and isinstance(action, Edit):
        present = text_of(path, files, task)
    new = action.content if isinstance(action, Write) else _edited(action, present)
    if new == present:
        raise InvalidAction(f"this leaves {path} as it is: change something", Fault.UNCHANGED)
    try:
        size = len(new.encode())
    except UnicodeEncodeError as error:
        raise InvalidAction(f"{path} would not be valid text") from error
    if size > MAX_FILE_BYTES:
        raise InvalidAction(f"{path} would have {size} bytes; at most {MAX_FILE_BYTES} are allowed")
    return {path: new}


def text_of(path: str, files: Mapping[str, str], task: Task) -> str:
    """Text of an editable file, or of one of the task's that is small enough to be shown, changed or copied.

    Raises:
        InvalidAction: there is no such file, it is too large, or it is no text.
    """
    if path in files:
        return files[path]
    if not (file := shown_file(task.env_dir, path)):
        raise InvalidAction(f"there is no file {path}")
    if file.stat().st_size > MAX_FILE_BYTES:
        raise InvalidAction(f"{path} has {file.stat().st_size:,} bytes; at most {MAX_FILE_BYTES:,} can be read")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidAction(f"{path} is not a text file") from error


def require_script(path: str, files: Mapping[str, str], task: Task) -> None:
    """Raises InvalidAction where there is no such file to be run."""
    if path not in files and not shown_file(task.env_dir, path):
        raise InvalidAction(f"there is no script {path}: use Write to make it")


def inspect(action: Inspect, files: Mapping[str, str], task: Task) -> str:
    """The asked-for lines with their numbers, of an editable file or of one of the task's; long lines are cut.

    Raises:
        InvalidAction: there is no such file, or no such lines.
    """
    if action.path in files:
        lines = matching.rows(files[action.path])
    elif file := shown_file(task.env_dir, action.path):
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


def _edited(action: Edit, present: str | None) -> str:
    """Text of the file after the edit; an empty SEARCH makes one that is not there (None)."""
    if present is None:
        if len(action.blocks) == 1 and not action.blocks[0][0].strip():
            return action.blocks[0][1]
        raise InvalidAction(f"there is no file {action.path} to edit: use Write to make it")
    try:
        return matching.replaced(present, action.blocks, action.path)
    except matching.NoMatch as reason:
        raise InvalidAction(str(reason), reason.fault) from reason


def _check_writable(path: str, files: Mapping[str, str], task: Task) -> None:
    names = {*files, *task.read_only, *task.editable, task.script}
    if path in task.read_only:
        raise InvalidAction(f"{path} is read-only: change {task.script}")
    if path == SUBMISSION:
        raise InvalidAction(f"{SUBMISSION} is written by running {task.script}: change the script")
    if any(path.startswith(f"{name}/") or name.startswith(f"{path}/") for name in names):
        raise InvalidAction(f"{path} clashes with another file or folder: use another name")
    if path not in files and len(files) >= MAX_FILES:
        raise InvalidAction(f"there are {len(files)} files already: change one of them")
