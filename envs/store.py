"""A folder of small files on any fsspec path (a local folder, a shared file system, an object store).

Invariant: a file appears under its name when it is complete.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem


class Store:
    """Files by relative name."""

    def __init__(self, path: str | Path):
        """path: a local folder or an fsspec URL, such as s3://bucket/folder."""
        self._fs, self.path = url_to_fs(str(path))
        self._fs.makedirs(self.path, exist_ok=True)

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError if there is none of that name."""
        return self._fs.cat_file(f"{self.path}/{name}")

    def refresh(self, name: str) -> bool:
        """Have a file count as written now; False if there is none of that name."""
        file = f"{self.path}/{name}"
        try:
            if isinstance(self._fs, LocalFileSystem):
                os.utime(file)
            else:
                self._fs.pipe_file(file, self._fs.cat_file(file))
        except FileNotFoundError:
            return False
        return True

    def write(self, name: str, content: bytes) -> None:
        file = f"{self.path}/{name}"
        if not isinstance(self._fs, LocalFileSystem):
            self._fs.pipe_file(file, content)  # an object store shows no half of an object
            return
        partial = f"{file}.{os.getpid()}-{os.urandom(4).hex()}"
        self._fs.makedirs(os.path.dirname(file), exist_ok=True)
        self._fs.pipe_file(partial, content)
        os.replace(partial, file)

    def names(self, below: str = "") -> list[str]:
        """Names of all files, or of those in a folder, sorted."""
        return sorted(name for name, _ in self._listed(below))

    def delete_others(self, keep: set[str], older_than: float) -> int:
        """Delete the files that are not in `keep` and were written more than `older_than` seconds ago; their number."""
        now = time.time()
        gone = [name for name, written in self._listed("") if name not in keep and now - written > older_than]
        for name in gone:
            self._fs.rm_file(f"{self.path}/{name}")
        return len(gone)

    def _listed(self, below: str) -> Iterator[tuple[str, float]]:
        """(name, time written) of each file."""
        folder = f"{self.path}/{below}".rstrip("/")
        for file, about in self._fs.find(folder, detail=True).items():
            written = about.get("mtime") or about.get("LastModified") or about.get("created") or 0
            seconds = written.timestamp() if isinstance(written, datetime) else float(written)
            yield os.path.relpath(file, self.path), seconds
