"""The project's Markdown as its tests read it: headings, links, inline code, and the commands of its blocks.

Invariant: what is read is what a reader sees, by a Markdown parser, so that a `#` in a block is no heading.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[1]
ASSIGNMENT = re.compile(r"""(?:export )?(?:[A-Z_]+=(?:"[^"]*"|[^\s"()])*(?: +|$))+""")
"""Variables that a line sets, or a command for itself, by starting nothing."""


@cache
def tracked() -> frozenset[Path]:
    """All files of the repository, relative to it, but for those that git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return frozenset(path for path in map(Path, listed.stdout.splitlines()) if (ROOT / path).exists())


def documents() -> list[Path]:
    """Those that people read, relative to the repository: at its top, in docs/, and where a folder has a README."""
    found = (path for path in tracked() if path.suffix == ".md")
    return sorted(p for p in found if len(p.parts) == 1 or p.parts[0] == "docs" or p.name == "README.md")


@cache
def tokens(document: Path) -> tuple[Token, ...]:
    return tuple(MarkdownIt("gfm-like", {"linkify": False}).parse((ROOT / document).read_text()))


def inline(document: Path) -> Iterator[Token]:
    """The parts of its text: words, code, links, images."""
    for token in tokens(document):
        yield from token.children or ()


def spans(document: Path) -> list[str]:
    """Its inline code."""
    return [token.content for token in inline(document) if token.type == "code_inline"]


def links(document: Path) -> list[str]:
    """Targets of its links and images."""
    found = (token.attrGet("href") or token.attrGet("src") for token in inline(document))
    return [str(target) for target in found if target]


def anchors(document: Path) -> set[str]:
    """What can stand behind a `#` in a link to it, as GitHub derives it from headings."""
    found = tokens(document)
    titles = [found[i + 1] for i, token in enumerate(found) if token.type == "heading_open"]
    texts = ["".join(child.content for child in title.children or ()) for title in titles]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


@dataclass(frozen=True)
class Command:
    """A command of a block that a reader may paste."""

    document: Path
    line: int
    """Where its block begins."""
    text: str
    """As a shell takes it."""
    variables: tuple[str, ...] = ()
    """Lines before it that set variables."""

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.text.splitlines()[0]}"

    def words(self) -> list[str]:
        """As the shell splits it, with variables filled in; without those that it sets for itself."""
        bare = re.sub(rf"^{ASSIGNMENT.pattern}", "", self.text)
        script = "\n".join([*self.variables, f"printf '%s\\0' {bare}"])
        shown = subprocess.run(["bash", "-euc", script], cwd=ROOT, capture_output=True, text=True, check=True)
        return shown.stdout.split("\0")[:-1]


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    document: Path
    line: int
    language: str
    text: str

    def commands(self) -> Iterator[Command]:
        variables: list[str] = []
        """In order, without their comments; of `a && b` each."""
        lines = re.sub(r"\\\n *", "", self.text).replace(" && ", "\n").splitlines()
        while lines:
            line = re.sub(r"(^|\s+)#.*", "", lines.pop(0))
            if here := re.search(r"<<'(\w+)'$", line):
                end = lines.index(here[1]) + 1
                line = "\n".join([line, *lines[:end]])
                del lines[:end]
            if ASSIGNMENT.fullmatch(line):
                variables.append(line)
            elif line:
                yield Command(self.document, self.line, line, tuple(variables))


def blocks(document: Path) -> list[Block]:
    fences = [token for token in tokens(document) if token.type == "fence"]
    return [Block(document, (token.map or [0])[0] + 1, token.info.strip(), token.content) for token in fences]
