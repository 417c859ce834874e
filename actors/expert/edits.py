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


def final_answer(task: Task, thought: str) -> str:
    """Text of the action that ends the episode."""
    if task.actions == "mlagentbench":
        return _research(thought, "Final Answer", final_answer=thought)
    return f"Thought: {thought}\nAction: Final Answer\n"


def _research(thought: str, name: str, **arguments: str | int) -> str:
    return f"Thought: {thought}\nAction: {name}\nAction Input: {json.dumps(arguments)}\n"


def _edit(thought: str, before: str, after: str) -> str:
    """Each block's search lines, never only blank ones, occur once in the script as the blocks before it leave it."""
    old, new = before.splitlines(), after.splitlines()
    hunks, blocks = _hunks(old, new), list[tuple[int, int, int, int]]()
    while hunks:
        start, end, first, last = hunks.pop(0)
        while not any(map(str.strip, old[start:end])) or _occurrences(new[:first] + old[start:], old[start:end]) != 1:
            if start > (blocks[-1][1] if blocks else 0):  # a line above that both versions have
                start, first = start - 1, first - 1
            elif hunks and hunks[0][0] == end:
                _, end, _, last = hunks.pop(0)
            elif end < len(old):
                end, last = end + 1, last + 1
            elif blocks:
                start, _, first, _ = blocks.pop()
            else:
                break  # there are only blank lines
        blocks.append((start, end, first, last))
    written = "".join(
        f"<<<<<<< SEARCH\n{_text(old[start:end])}=======\n{_text(new[first:last])}>>>>>>> REPLACE\n"
        for start, end, first, last in blocks
    )
    return f"Thought: {thought}\nAction: Edit\n{written}"


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
    """How often they occur for a reader who does not see blanks at the ends of lines."""
    size, bare, sought = len(wanted), [line.rstrip() for line in lines], [line.rstrip() for line in wanted]
    return sum(bare[i : i + size] == sought for i in range(len(bare) - size + 1))


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
