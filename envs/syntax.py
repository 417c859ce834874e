"""Parsing Python from several threads at once.

Invariant: one text at a time. Until Python 3.11.8, `ast.parse` fails with a SystemError ("AST constructor recursion
depth mismatch") where garbage is collected in the middle of it and another thread parses meanwhile (CPython's
gh-106905).
"""

from __future__ import annotations

import ast
import threading

_parsing = threading.Lock()


def parsed(text: str) -> ast.Module:
    """Raises SyntaxError, ValueError (null bytes), and RecursionError or MemoryError where it is nested too deeply."""
    with _parsing:
        return ast.parse(text)


def expression(text: str) -> ast.expr:
    """Of a text that is one; raises as `parsed`."""
    with _parsing:
        return ast.parse(text, mode="eval").body
