"""A file of the user's as the agent sees it, and put back into the form that it had.

Invariant: the agent sees lines that end with a newline, no byte-order mark, and a notebook as a script; what is put
back has the line ends, the mark and the cells of the user's own, so that it differs in what was changed, and in nothing
else.
"""

from __future__ import annotations

import codecs
import difflib
from dataclasses import dataclass
from pathlib import Path

from actors.solving import notebook
from actors.solving.settings import SolveError
from envs.actions import MAX_FILE_BYTES

NOTEBOOK = ".ipynb"


@dataclass(frozen=True)
class Source:
    """One file."""

    file: Path
    raw: bytes
    text: str
    """As the agent sees it."""

    @classmethod
    def read(cls, file: Path) -> Source:
        """Raises SolveError where it cannot be read, is no text, or is too large to be edited."""
        try:
            raw = file.read_bytes()
        except OSError as error:
            raise SolveError(f"{file} cannot be read: {error.strerror}") from error
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise SolveError(f"{file} is UTF-16: save it as UTF-8")
        try:
            text = _lines(raw.decode("utf-8-sig"))
            text = notebook.to_script(text) if file.suffix == NOTEBOOK else text
        except UnicodeDecodeError as error:
            raise SolveError(f"{file} is not a text file (UTF-8): {error}") from error
        except notebook.NotebookError as error:
            raise SolveError(f"{file} is no notebook that can be run: {error}") from error
        if len(text.encode()) > MAX_FILE_BYTES:
            raise SolveError(
                f"{file} has {len(text.encode()):,} bytes, and an agent can change files of at most "
                f"{MAX_FILE_BYTES:,}: move what need not change to a module of its own"
            )
        return cls(file, raw, text)

    def put_back(self, text: str) -> bytes:
        """A text of the agent's in the form of this file."""
        if text == self.text:
            return self.raw
        plain = self.raw.decode("utf-8-sig")
        if self.file.suffix == NOTEBOOK:
            text = notebook.to_notebook(text, plain)
        elif not _lines(plain).endswith("\n"):
            text = text.removesuffix("\n")
        if "\r\n" in plain:
            text = text.replace("\n", "\r\n")
        mark = codecs.BOM_UTF8 if self.raw.startswith(codecs.BOM_UTF8) else b""
        return mark + text.encode()


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def difference(now: str, then: str, name: str, context: int = 3) -> str:
    """A unified diff of two texts; empty where they are equal."""
    lines = difflib.unified_diff(now.splitlines(), then.splitlines(), f"a/{name}", f"b/{name}", n=context, lineterm="")
    return "".join(f"{line}\n" for line in lines)
