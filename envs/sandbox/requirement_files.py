"""Lists of packages for experiments: pip's requirements and lock files, and the sets that come along by name.

A file is known by what it says: its lines, those of the files that it includes, and what lies at the places on this
machine that it names. Nothing is installed here (`installed`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from envs.sandbox.base import SandboxFailure

SETS = Path(__file__).parent.parent / "images"
INCLUDED = re.compile(r"^(?:-r|-c|--requirement|--constraint)[ =]?\s*(\S+)")
PLACE = re.compile(r"^(?:-f|--find-links)[ =]?\s*(\S+)")

PACKAGED = (".whl", ".gz", ".zip")
"""Suffixes of packages in files."""


class RequirementsError(SandboxFailure):
    """A list of packages that cannot be installed; the message names the file and what to do."""


def find(name: str) -> Path:
    """The list of that name: a set that comes along, which is a plain word, or a file.

    Raises:
        RequirementsError: there is neither, or it lists nothing.
    """
    if name.isidentifier():
        file, known = SETS / f"{name}.txt", ", ".join(sorted(path.stem for path in SETS.glob("*.txt")))
        advice = f"sets of packages are {known}, and a file is named by more than a word, such as ./{name}"
    else:
        file, advice = Path(name).absolute(), "give a requirements file that this machine has"
    if not file.is_file():
        raise RequirementsError(f"there is no list of packages {name}: {advice}")
    if not any(_lines(file)):
        raise RequirementsError(f"{name} lists no package")
    return file


def digest(file: Path) -> str:
    """Hash of what the file says.

    Raises:
        RequirementsError: it, or one that it includes, cannot be read, or names the folder of a project.
    """
    told = hashlib.sha256()
    for of, line in _all_lines(file, set()):
        told.update(f"{line}\n".encode())
        for place in _places(of, line):
            told.update(repr(place).encode())
    return told.hexdigest()


def _all_lines(file: Path, read: set[Path]) -> Iterator[tuple[Path, str]]:
    """(file, line) of it and of those that it includes, each once."""
    if file in read:
        return
    read.add(file)
    for line in _lines(file):
        yield file, line
        if found := INCLUDED.match(line):
            yield from _all_lines((file.parent / found[1]).absolute(), read)


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise RequirementsError(f"{file} cannot be read as a list of packages: {error}") from error
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.replace("\\\n", " ").splitlines())
    return [line for line in lines if line]


def _places(file: Path, line: str) -> Iterator[tuple[str, int, int]]:
    """(name, bytes, time of the last change) of each file at a place on this machine that the line names.

    Raises:
        RequirementsError: that is the folder of a project, which building it would change.
    """
    found = PLACE.match(line)
    first = line.split()[0].removeprefix("file://")
    place = file.parent / (found[1] if found else first)
    is_path = "/" in first or first.startswith(".")  # as pip has it: a plain word is a package, whatever lies here
    if line.startswith(("-e ", "--editable")) or (not found and is_path and place.is_dir()):
        raise RequirementsError(
            f"{file}: {line}: a project cannot be listed: name a wheel of it (`pip wheel --no-deps`)"
        )
    if not found and (line.startswith("-") or not place.is_file()):
        return
    for path in sorted(place.iterdir()) if place.is_dir() else [place]:
        if path.is_file() and path.suffix in PACKAGED:
            about = path.stat()
            yield path.name, about.st_size, about.st_mtime_ns
