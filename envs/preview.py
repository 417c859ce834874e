"""A preview of a task's data, for prompts: what an engineer would look at first (after AIDE's, arXiv 2502.13138).

Of every file its size; of tables and records the number of rows, and columns with types and a few values; of arrays
their shapes. What is too much is told more briefly, then left out. Invariants: nothing is read but what a sandbox
shows, so no link out of the task's folder is followed; of each file a bounded part is read, and no more is unpacked;
what files hold is untrusted text, escaped and cut. The same folder has the same preview.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
import json
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from envs.printable import escaped, without_middle

HEAD_BYTES = 1 << 18
"""Read of a file, and of each array of an archive unpacked."""
COUNTED_BYTES = 1 << 26
"""How far into a file rows are counted; the number of a longer one's is estimated."""
MAX_ROWS = 1000
"""Rows that types and values are taken from."""
MAX_COLUMNS = 60
MAX_VALUES, MAX_VALUE, MAX_NAME = 3, 24, 60
"""Values of a column, and characters of each; characters of a name, which scripts have to write."""
MAX_NAMES = 1000
"""Characters of the names of those columns of a file of which no more is told."""
MAX_ENTRIES = 20_000
"""Files that are looked for."""
MAX_NAMED, MAX_OF_FOLDER = 100, 8
"""Files that are told by name, and of a folder in the task's folder."""
DETAILS = (MAX_COLUMNS, 20, 6, 2, 0)
"""Columns told of each file, whichever of these has room."""
MORE = "… and more"

Columns = list[tuple[str, str]]
"""(name, type and values)."""


def shown_file(env_dir: Path, name: str) -> Path | None:
    """The file of that name in a task's folder, if a sandbox shows it: a link must not lead out of the folder."""
    try:
        file = (env_dir / name).resolve()
        return file if file.is_file() and file.is_relative_to(env_dir.resolve()) else None
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long
        return None


def preview(env_dir: Path, left_out: frozenset[str], characters: int) -> str:
    """At most so many characters about the files in a task's folder, but for those that are shown elsewhere.

    The folder is that of a prepared task, which never changes.
    """
    texts = _looked_at(env_dir, left_out)
    for text in texts:
        if len(text) <= characters:
            return text
    lines = texts[-1][: max(0, characters - len(MORE))].split("\n")[:-1]
    return "\n".join([*lines, MORE]) if lines else ""


@functools.lru_cache(maxsize=64)
def _looked_at(env_dir: Path, left_out: frozenset[str]) -> list[str]:
    """What is told of the files in each of `DETAILS`."""
    found = _files(env_dir, left_out)
    about = {name: _about(env_dir / name) for name in _named(found)}
    return ["\n".join(_told(found, about, columns)) for columns in DETAILS]


def _files(env_dir: Path, left_out: frozenset[str]) -> list[str]:
    """Names of regular files, those of a folder together and folders after files."""
    names, folders = [], [env_dir]
    while folders and len(names) < MAX_ENTRIES:
        with os.scandir(folder := folders.pop(0)) as entries:
            for entry in sorted(itertools.islice(entries, MAX_ENTRIES), key=lambda one: one.name):
                name = str((folder / entry.name).relative_to(env_dir))
                if entry.is_dir(follow_symlinks=False):
                    folders.append(folder / entry.name)
                elif entry.is_file(follow_symlinks=False) or (entry.is_symlink() and shown_file(env_dir, name)):
                    names += [name] if name not in left_out else []
    return names


def _named(names: Sequence[str]) -> Iterator[str]:
    """The files that are told by name: of a folder in the folder the first ones."""
    for folder, group in itertools.groupby(names, key=os.path.dirname):
        yield from itertools.islice(group, MAX_OF_FOLDER if folder else MAX_NAMED)


def _told(names: Sequence[str], about: Mapping[str, tuple[str, Columns]], columns: int) -> Iterator[str]:
    """Lines about the files; columns: most that are told of each."""
    for folder, group in itertools.groupby(names, key=os.path.dirname):
        inside = list(group)
        for name in filter(about.__contains__, inside):
            size, found = about[name]
            yield f"{_short(name, 2 * MAX_NAME)} ({size})"
            yield from _columns(found, columns)
        if (more := len(inside) - sum(name in about for name in inside)) > 0:
            kinds = sorted({os.path.splitext(name)[1] or "no suffix" for name in inside})
            yield f"{escaped(folder)}/: {more:,} more files ({', '.join(map(_short, kinds[:5]))})".removeprefix("/: ")


def _columns(found: Columns, most: int) -> Iterator[str]:
    """Lines about as many columns, the last of them at the end, and the names of the others."""
    if not most:
        return
    cut = len(found) if len(found) <= most else most - 1
    rest = found[cut:-1]
    yield from (f"  {_short(column, MAX_NAME)}: {about}" for column, about in found[:cut])
    if rest:
        names = ", ".join(_short(column, MAX_NAME) for column, _ in rest[:MAX_NAMES])
        yield f"  {len(rest):,} more: {without_middle(names, MAX_NAMES)}"
    yield from (f"  {_short(column, MAX_NAME)}: {about}" for column, about in found[max(cut, len(found) - 1) :])


def _about(file: Path) -> tuple[str, Columns]:
    """(size and shape, columns) of a file."""
    reader = READERS.get(file.suffix.lower())
    try:
        shape, found = reader(file) if reader else ("", [])
    except UNREADABLE:  # not what its name says: then it has no columns
        shape, found = "", []
    return _size(file.stat().st_size) + (f", {shape}" if shape else ""), found


def _size(size: int) -> str:
    """`512 B`, `7.2 kB`, `3.0 GB`."""
    power = min(4, int(math.log(size, 1000))) if size else 0
    return f"{size} B" if not power else f"{size / 1000**power:.1f} {' kMGT'[power]}B"


def _head(file: Path) -> tuple[str, bool]:
    """The first whole lines of a text file, and whether they are all of it."""
    with file.open("rb") as opened:
        data = opened.read(HEAD_BYTES + 1)
    if b"\0" in data:
        raise ValueError(f"{file} is no text")
    whole = len(data) <= HEAD_BYTES
    text = data[:HEAD_BYTES].decode("utf-8-sig", errors="replace")
    return (text if whole else text[: text.rfind("\n") + 1]), whole


def _table(file: Path, delimiter: str = "") -> tuple[str, Columns]:
    text, whole = _head(file)
    first = text[: text.find("\n")]
    delimiter = delimiter or max(",;\t", key=first.count)
    rows = filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    names, sample = next(rows, []), list(itertools.islice(rows, MAX_ROWS))
    number, exact = len(sample) + sum(1 for _ in rows), True
    if not whole:
        plain = number + 1 == text.count("\n")
        number, exact = _lines(file)
        number, exact = number - 1, exact and plain
    count = ("" if exact else "about ") + _counted(number, "row")
    values = [[row[at] if at < len(row) else "" for row in sample] for at in range(len(names))]
    told = [(name, _described(column)) for name, column in zip(names, values, strict=True)]
    return f"{count}, {_counted(len(names), 'column')}", told


def _records(file: Path) -> tuple[str, Columns]:
    """JSON, one object a line."""
    text, whole = _head(file)
    lines = [line for line in text.split("\n") if line.strip()]
    number, exact = (len(lines), True) if whole else _lines(file)
    of_lines = [json.loads(line) for line in lines[:MAX_ROWS]]
    return ("" if exact else "about ") + _counted(number, "line"), _keys(of_lines)


def _json(file: Path) -> tuple[str, Columns]:
    text, whole = _head(file)
    if not whole:
        return "", []
    held = json.loads(text)
    if isinstance(held, list):
        return f"a list of {len(held):,}", _keys(held[:MAX_ROWS])
    return ("an object", _keys([held])) if isinstance(held, dict) else ("", [])


def _keys(objects: Sequence[object]) -> Columns:
    records = [one for one in objects if isinstance(one, Mapping)]
    names = list(dict.fromkeys(name for one in records for name in one))
    return [(name, _described([_plain(one.get(name)) for one in records])) for name in names]


def _plain(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _array(file: Path) -> tuple[str, Columns]:
    with file.open("rb") as opened:
        return _header(opened.read(HEAD_BYTES)), []


def _arrays(file: Path) -> tuple[str, Columns]:
    """Arrays of an .npz archive, of each of which only the beginning is unpacked."""
    told = []
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        for member in members[:MAX_COLUMNS]:
            with archive.open(member) as opened:
                told.append((member.filename.removesuffix(".npy"), _header(opened.read(HEAD_BYTES))))
    return _counted(len(members), "array"), told


def _header(data: bytes) -> str:
    """Type and shape of the array that begins so."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return _short(f"{dtype} {' × '.join(map(str, shape)) or 'scalar'}", 60)


def _described(values: Sequence[str]) -> str:
    """Type, missing values and examples of a column's values, as they are written."""
    present = [value for value in values if value.strip()]
    missing = f", {round(100 * (1 - len(present) / len(values)))} % missing" if len(present) < len(values) else ""
    if not present:
        return "empty"
    kind = next((name for name, fits in KINDS if all(map(fits, present))), "text")
    examples = itertools.islice(dict.fromkeys(present), MAX_VALUES)
    shown = ", ".join(f'"{_short(one)}"' if kind == "text" else _short(one) for one in examples)
    return f"{kind}{missing}, e.g. {shown}"


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def fits(value: str) -> bool:
        try:
            parse(value)
        except ValueError:
            return False
        return len(value) < 100

    return fits


KINDS: tuple[tuple[str, Callable[[str], bool]], ...] = (("integer", _parses(int)), ("number", _parses(float)))


def _short(text: str, most: int = MAX_VALUE) -> str:
    return without_middle(escaped(" ".join(text[: 10 * most].split())), most)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def _lines(file: Path) -> tuple[int, bool]:
    """Lines of a file, and whether they were counted to its end."""
    size, number, read, last = file.stat().st_size, 0, 0, b""
    with file.open("rb") as opened:
        while read < COUNTED_BYTES and (part := opened.read(1 << 20)):
            read, last = read + len(part), part
            number += part.count(b"\n")
    if read >= size:
        return number + (not last.endswith(b"\n")), True
    return round(number * size / read), False


UNREADABLE = (
    OSError, ValueError, RecursionError, RuntimeError, NotImplementedError, EOFError, MemoryError, csv.Error,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
READERS: dict[str, Callable[[Path], tuple[str, Columns]]] = {
    ".csv": _table, ".tsv": functools.partial(_table, delimiter="\t"), ".jsonl": _records, ".json": _json,
    ".npy": _array, ".npz": _arrays,
}  # fmt: skip
