"""Writes actions as text, in the form that the task asks for; an Edit is as short as it goes. Pure."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence

from envs.records import Task

NEAR = 1
"""Unchanged lines between two changes that one block may span: a block of its own costs more than a line."""


def change(task: Task, thought: str, before: str, after: str) -> str:
    """Text of the action that turns the task's script from `before` into `after`."""
    if task.actions == "mlagentbench":
        return _research(thought, "Write File", file_name=task.script, content=after)
    return _edit(thought, before, after)


def undo(task: Task, thought: str) -> str:
    """Text of the action that takes the last edit back."""
    if task.actions == "mlagentbench":
        return _research(thought, "Undo Edit Script", script_name=task.script)
    return f"Thought: {thought}\nAction: Undo\n"


def inspect(task: Task, thought: str) -> str:
    """Text of the action that reads the start of the script."""
    if task.actions == "mlagentbench":
        return _research(
            thought, "Inspect Script Lines", script_name=task.script, start_line_number=1, end_line_number=20
        )
    return f"Thought: {thought}\nAction: Inspect\n"


def _research(thought: str, name: str, **arguments: str | int) -> str:
    return f"Thought: {thought}\nAction: {name}\nAction Input: {json.dumps(arguments)}\n"


def _edit(thought: str, before: str, after: str) -> str:
    """Each block's search lines occur once in the script as the blocks before it leave it."""
    old, new = before.splitlines(), after.splitlines()
    written, line = [], 0
    for start, end, first, last in _hunks(old, new):
        while start == end or _occurrences(new[:first] + old[start:], old[start:end]) != 1:
            if start > line:  # a line above that both versions have; never into the block before
                start, first = start - 1, first - 1
            elif end < len(old):
                end, last = end + 1, last + 1
            else:
                break
        written.append((old[start:end], new[first:last]))
        line = end
    blocks = "".join(f"<<<<<<< SEARCH\n{_text(a)}=======\n{_text(b)}>>>>>>> REPLACE\n" for a, b in written)
    return f"Thought: {thought}\nAction: Edit\n{blocks}"


def _hunks(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int, int, int]]:
    """(start, end) in `old` and (first, last) in `new` of what differs, near ones joined."""
    found: list[tuple[int, int, int, int]] = []
    for tag, start, end, first, last in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        if found and start - found[-1][1] <= NEAR:
            found[-1] = (found[-1][0], end, found[-1][2], last)
        else:
            found.append((start, end, first, last))
    return found


def _occurrences(lines: Sequence[str], wanted: Sequence[str]) -> int:
    size = len(wanted)
    return sum(list(lines[i : i + size]) == list(wanted) for i in range(len(lines) - size + 1))


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
