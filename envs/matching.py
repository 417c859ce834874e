"""Where the SEARCH lines of an edit stand in a file, and the file with others in their place. Pure.

Invariant: lines are whole, and stand there exactly once: as they are written, or all indented by as much more, or less.
"""

from __future__ import annotations

from collections.abc import Sequence

from envs.records import Fault

TAB = 4
"""Columns of a tab, where SEARCH lines with blanks are compared with a file that has tabs."""


class NoMatch(ValueError):
    """The lines are not there, or more than once; the message says what to do."""

    def __init__(self, message: str, fault: Fault = Fault.NO_MATCH):
        super().__init__(message)
        self.fault = fault


def replaced(text: str, blocks: Sequence[tuple[str, str]], path: str) -> str:
    """The text of the file `path` after each block (search, replacement), one after the other.

    Lines are matched whole, but for blanks at their ends; where that finds none, up to a common indentation, which is
    put back.

    Raises:
        NoMatch: the lines of a block do not stand there exactly once.
    """
    lines = rows(text)
    tabs = any(line.startswith("\t") for line in lines) and not any(line.startswith(" ") for line in lines)
    for search, replacement in blocks:
        wanted = [line.rstrip() for line in rows(search)]
        if not any(wanted):
            raise NoMatch("the SEARCH lines are empty: copy the lines to replace")
        place, again = _places([line.rstrip() for line in lines], wanted)
        if place is None:
            place, again = _shifted_places(lines, wanted)
        if place is None:
            raise NoMatch(f"the SEARCH lines are not in {path}: copy them exactly")
        if again is not None:
            raise NoMatch(f"the SEARCH lines occur more than once in {path}: add one that differs", Fault.AMBIGUOUS)
        shift = _columns(lines[place]) - _columns(wanted[0])
        lines[place : place + len(wanted)] = _indented(rows(replacement), shift, tabs, path)
    return "".join(f"{line}\n" for line in lines)


def rows(text: str) -> list[str]:
    """Lines as Python counts them: split at newlines only."""
    return text.removesuffix("\n").split("\n") if text else []


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
        NoMatch: a line would begin left of the first column.
    """
    if not shift and not tabs:
        return list(new)
    indented = []
    for line in new:
        text, columns = line.lstrip(" \t"), _columns(line) + shift
        if text and columns < 0:
            raise NoMatch(
                f"the SEARCH lines are not in {path} at that indentation, and {text[:40]!r} has no room {-shift} "
                "columns further left: copy them exactly",
                Fault.NO_MATCH,
            )
        count, rest = divmod(columns, TAB) if tabs else (0, columns)
        indented.append("\t" * count + " " * rest + text if text else "")
    return indented
