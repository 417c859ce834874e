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


def meaning(text: str) -> str:
    """The same for two scripts that do the same, whatever their comments, layout and imports that are repeated or not
    used; of what does not parse the text itself."""
    try:
        tree = parsed(text)
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        words = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        seen: set[str] = set()
        body = []
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom) and not _has_effects(node):
                node.names = [alias for alias in node.names if _bound(alias) in used | words | {"*"}]
                node.names = [alias for alias in node.names if not _repeats(node, alias, seen)]
                if not node.names:
                    continue
            body.append(node)
        tree.body = body
        return ast.dump(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text


def _has_effects(node: ast.Import | ast.ImportFrom) -> bool:
    """Whether importing alone changes what a script does."""
    return isinstance(node, ast.ImportFrom) and (node.module or "").rpartition(".")[2] in ("__future__", "experimental")


def _bound(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def _repeats(node: ast.Import | ast.ImportFrom, alias: ast.alias, seen: set[str]) -> bool:
    module = f"{node.level}{node.module}" if isinstance(node, ast.ImportFrom) else ""
    told = f"{module} {alias.name} {alias.asname}"
    if told in seen:
        return True
    seen.add(told)
    return False
