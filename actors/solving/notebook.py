"""A Jupyter notebook as a script, and a script that came of one as a notebook again. Pure.

Each code cell stands below a line `# %% NUMBER`, and what only IPython reads (`%matplotlib inline`, `!pip …`, cells
that begin with `%%`) stands behind `# ipython: `. On the way back a cell with a known number gets its new source, one
without a number becomes a new cell, and one whose line is gone is left out. Invariants: text and pictures of the
notebook stay where they are; outputs, which would be those of other code, are removed.
"""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from envs.errors import UserError

MARK = re.compile(r"^# %%[ \t]*(?P<number>\d*)[^\n]*$", re.MULTILINE)
MAGIC = "# ipython: "
IPYTHON = re.compile(r"^[ \t]*(?:%{1,2}[A-Za-z_]|!(?!=)|\w[\w.]*\?{1,2}[ \t]*$)")
SHOWN = "display = print  # a notebook's own\n"


class NotebookError(UserError):
    """A file that is no notebook with Python code; the message says why."""


def to_script(text: str) -> str:
    """The code cells as one script.

    Raises:
        NotebookError: the text is no notebook of format 4, or has no code.
    """
    cells = [(number, _source(cell)) for number, cell in enumerate(_cells(text)) if cell.get("cell_type") == "code"]
    parts = [f"# %% {number}\n{_hidden(source)}" for number, source in cells if source.strip()]
    if not parts:
        raise NotebookError("it has no code")
    script = "\n".join(parts)
    return f"{SHOWN}{script}" if re.search(r"\bdisplay\(", script) else script


def to_notebook(script: str, original: str) -> str:
    """The notebook `original` with the code of the script that came of it."""
    notebook = json.loads(original)
    sources, before, last = {}, {}, -1
    head, *pieces = re.split(MARK, script.removeprefix(SHOWN))
    sections = [("", head)] if head.strip() else []
    sections += list(zip(pieces[::2], pieces[1::2], strict=True))
    for number, source in sections:
        code = _shown(source.strip("\n"))
        if number and int(number) < len(notebook["cells"]) and int(number) not in sources:
            last = int(number)
            sources[last] = code
        else:
            before.setdefault(last, []).append(code)
    cells = [_new(code) for code in before.get(-1, ())]
    for number, cell in enumerate(notebook["cells"]):
        if cell.get("cell_type") != "code":
            cells.append(cell)
        elif number in sources or not _source(cell).strip():
            cell = copy.deepcopy(cell) | {"outputs": [], "execution_count": None}
            cells.append(cell | {"source": sources.get(number, "").splitlines(keepends=True)})
        cells += [_new(code) for code in before.get(number, ())]
    return json.dumps(notebook | {"cells": cells}, indent=1, ensure_ascii=False) + "\n"


def _cells(text: str) -> list[dict[str, Any]]:
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotebookError(f"it is no JSON: {error}") from error
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise NotebookError("it has no `cells`: save it as a notebook of format 4")
    kernel = (notebook.get("metadata") or {}).get("kernelspec") or {}
    language = kernel.get("language", "python")
    if language != "python":
        raise NotebookError(f"its language is {language}, not Python")
    return cells


def _source(cell: dict[str, Any]) -> str:
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def _hidden(source: str) -> str:
    """Code with IPython's own lines as comments."""
    lines = source.rstrip("\n").split("\n")
    whole = source.lstrip().startswith("%%") and not re.match(r"\s*%%(?:time|timeit|capture)\b", source)
    return "".join(f"{MAGIC}{line}\n" if whole or IPYTHON.match(line) else f"{line}\n" for line in lines)


def _shown(code: str) -> str:
    return "\n".join(line.removeprefix(MAGIC) for line in code.split("\n"))


def _new(code: str) -> dict[str, Any]:
    return {
        "cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [],
        "source": code.splitlines(keepends=True),
    }  # fmt: skip
