"""Text from outside (what a script printed, what a data file holds), made fit to be read.

Invariant: no control character is left in it but line feeds and tabs, so that none moves a terminal's cursor or hides
what follows. Pure.
"""

from __future__ import annotations

KEPT = frozenset("\n\t")


def escaped(text: str) -> str:
    """The text with control characters (terminal escapes among them) shown as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c in KEPT or c.isprintable() else repr(c)[1:-1] for c in text)


def without_middle(text: str, characters: int, mark: str = "…", end: float = 0.5) -> str:
    """At most so many characters of the text: its beginning, a mark, and its end, which has that share of them."""
    if len(text) <= characters:
        return text
    room = max(0, characters - len(mark))
    tail = int(room * end)
    return f"{text[: room - tail]}{mark}{text[len(text) - tail :]}"
