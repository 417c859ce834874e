"""Text that a policy or an experiment wrote, prepared for people to read.

Invariant: what comes out holds no terminal escapes, and control or direction-changing characters only as visible codes.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator

Line = tuple[str, str]
"""(kind, text): kind is `plain`, `same`, `add`, `del` or `mark` (a delimiter of the action format)."""

ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|.)", re.DOTALL)
SEARCH, MIDDLE, REPLACE = "<<<<<<< SEARCH", "=======", ">>>>>>> REPLACE"


def visible(text: str) -> str:
    """The text without terminal escapes; other control and format characters as `\\x07` or `\\u202e`."""
    text = ANSI.sub("", text).replace("\r\n", "\n").expandtabs(4)
    if text.replace("\n", "").isprintable():  # most text is, and is looked at character by character for nothing
        return text
    return "".join(c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else _code(c) for c in text)


def diff(action: str) -> list[Line]:
    """An action's text by lines: search/replace blocks as a line diff, a fenced whole file as added lines."""
    lines = visible(action).split("\n")
    shown: list[Line] = []
    i = 0
    while i < len(lines):
        if lines[i].strip() == SEARCH and (block := _block(lines, i)):
            middle, end = block
            shown += _changes(lines[i + 1 : middle], lines[middle + 1 : end])
            i = end + 1
        elif lines[i].startswith("```") and (end := _find(lines, "```", i + 1)) is not None:
            shown += [("mark", lines[i]), *(("add", line) for line in lines[i + 1 : end]), ("mark", lines[end])]
            i = end + 1
        else:
            shown.append(("plain", lines[i]))
            i += 1
    return shown


def _code(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _find(lines: list[str], wanted: str, start: int) -> int | None:
    return next((i for i in range(start, len(lines)) if lines[i].strip() == wanted), None)


def _block(lines: list[str], start: int) -> tuple[int, int] | None:
    """Positions of the middle and last delimiter of the block that starts here; None where one is missing."""
    middle = _find(lines, MIDDLE, start)
    end = _find(lines, REPLACE, middle) if middle is not None else None
    return (middle, end) if end is not None else None


def _changes(before: list[str], after: list[str]) -> Iterator[Line]:
    yield "mark", "@@"
    for tag, i, j, k, m in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            yield from (("same", line) for line in before[i:j])
        else:
            yield from (("del", line) for line in before[i:j])
            yield from (("add", line) for line in after[k:m])
