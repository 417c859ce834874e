"""What a folder holds, file by file, each of which is read once: a hash stands as long as the file's size, times and
inode do.

The times are of the content and of the inode, and the latter nobody can set back. Invariant: what was changed a moment
ago is read again, since a further change could have the same times.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from envs.cache import cache_folder

SETTLED_NS = 2_000_000_000
Mark = tuple[int, int, int, int, str]
"""Size, time of content, time of inode, number of inode, hash."""


def files(folder: Path) -> list[Path]:
    """In order, also behind links, none of which leads in a circle (`envs.benchmarks.links`)."""
    held = (Path(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names)
    return sorted(path for path in held if path.is_file())


def hashes(folder: Path) -> Iterator[tuple[str, int, str]]:
    """(relative path, size, hash of the content) of each file, in order, also behind links; bytecode is left out.

    Raises:
        OSError: a file cannot be read.
    """
    record = cache_folder() / "content" / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}.json"
    known, found = _read(record), {}
    for path in (path for path in files(folder) if "__pycache__" not in path.parts):
        name, about = str(path.relative_to(folder)), path.stat()
        mark = about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino
        if name in known and known[name][:-1] == mark:
            content = known[name][-1]
        else:
            with path.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").hexdigest()
        if time.time_ns() - max(about.st_mtime_ns, about.st_ctime_ns) > SETTLED_NS:
            found[name] = (*mark, content)
        yield name, about.st_size, content
    if found != known:
        with contextlib.suppress(OSError):  # then all is read again
            _write(record, found)


def _read(record: Path) -> dict[str, Mark]:
    try:
        return msgspec.json.decode(record.read_bytes(), type=dict[str, Mark])
    except (OSError, msgspec.DecodeError):
        return {}


def _write(record: Path, found: dict[str, Mark]) -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=record.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(found))
        os.replace(partial, record)
    except BaseException:
        os.unlink(partial)
        raise
