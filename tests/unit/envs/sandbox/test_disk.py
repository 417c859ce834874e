"""What an experiment has written is counted by the room that it takes up, whoever holds it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from envs.sandbox.disk import nameless, over

MB = 1 << 20
OPEN = """
import sys
print(flush=True)
sys.stdin.read()
"""
MAPPED = """
import ctypes, os, sys
map = ctypes.CDLL(None).mmap
map.restype, map.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
assert map(None, 8 << 20, 1, 1, int(sys.argv[1]), 0) != 2**64 - 1
os.close(int(sys.argv[1]))
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held() -> Iterator[Callable[[int, str], None]]:
    """Has a process of its own hold the file behind a descriptor, until the test ends."""
    with ExitStack() as ends:

        def start(descriptor: int, how: str) -> None:
            holder = ends.enter_context(
                subprocess.Popen(
                    [sys.executable, "-S", "-c", how, str(descriptor)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    pass_fds=[descriptor],
                )
            )  # fmt: skip
            ends.callback(holder.stdin.close)
            holder.stdout.readline()

        yield start


@pytest.mark.parametrize("ways", [[OPEN], [MAPPED], [OPEN, OPEN], [MAPPED, MAPPED], [OPEN, MAPPED]])
def test_a_file_without_a_name_counts_once_however_many_hold_it(
    tmp_path: Path, held: Callable[[int, str], None], ways: list[str]
) -> None:
    with (tmp_path / "file").open("w+b") as file:
        file.write(bytes(8 * MB))
        file.flush()
        for how in ways:
            held(file.fileno(), how)
        assert nameless(str(tmp_path)) == 0, "it has a name, by which it counts"
        os.unlink(file.name)
    assert 8 * MB <= nameless(str(tmp_path)) < 9 * MB
    assert over(str(tmp_path), 7 * MB) and not over(str(tmp_path), 10 * MB)
