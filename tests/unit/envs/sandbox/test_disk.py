"""What an experiment has written is counted by the room that it takes up, whoever holds it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import psutil
import pytest

from envs.sandbox import disk
from envs.sandbox.disk import nameless, over, wipe

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
PAGE = MAPPED.replace("8 << 20", "4096").replace("os.close(int(sys.argv[1]))\n", "")
"""Open, and a page of it mapped."""
DEEP = """
import os, sys
os.chdir(sys.argv[2])
for _ in range(20):
    os.mkdir("x" * 255)
    os.chdir("x" * 255)
deep = os.open("deep", os.O_CREAT | os.O_RDWR)
last = os.dup(int(sys.argv[1]))
print(flush=True)
sys.stdin.read()
"""
"""Open, after another whose path is longer than may be asked for."""
SENT = """
import os, socket, sys
here, there = socket.socketpair()
socket.send_fds(here, [b"x"], [int(sys.argv[1])])
os.close(int(sys.argv[1]))
print(flush=True)
sys.stdin.readline()
socket.recv_fds(there, 1, 1)
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def as_in_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc shows the experiment's processes alone, not each thread of all that runs on this machine."""
    listdir = os.listdir

    def shown(folder: str) -> list[str]:
        if folder != "/proc":
            return listdir(folder)
        return [str(process.pid) for process in psutil.Process().children(recursive=True)]

    monkeypatch.setattr(disk.os, "listdir", shown)


@pytest.fixture
def held() -> Iterator[Callable[..., subprocess.Popen]]:
    """Has a process of its own hold the file behind a descriptor, until the test ends."""
    with ExitStack() as ends:

        def start(descriptor: int, how: str, *more: str) -> subprocess.Popen:
            holder = ends.enter_context(
                subprocess.Popen(
                    [sys.executable, "-S", "-c", how, str(descriptor), *more], stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, pass_fds=[descriptor], bufsize=0,
                )
            )  # fmt: skip
            ends.callback(holder.stdin.close)
            holder.stdout.readline()
            return holder

        yield start


@pytest.mark.parametrize("ways", [[OPEN], [MAPPED, MAPPED], [OPEN, MAPPED], [MAPPED, PAGE]])
def test_a_file_without_a_name_counts_once_however_many_hold_it(
    tmp_path: Path, held: Callable[..., subprocess.Popen], ways: list[str]
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


def unlinked(folder: Path) -> IO[bytes]:
    with (folder / "file").open("w+b") as file:
        os.unlink(file.name)
        file.write(bytes(8 * MB))
        file.flush()
        return open(os.dup(file.fileno()), "rb")


def test_a_file_that_lies_too_deep_to_be_named_hides_no_other(tmp_path: Path, held: Callable[..., subprocess.Popen]):
    with unlinked(tmp_path) as file:
        held(file.fileno(), DEEP, str(tmp_path))
    assert 8 * MB <= nameless(str(tmp_path)) < 9 * MB
    wipe(tmp_path)
    assert 8 * MB <= nameless(str(tmp_path)) < 9 * MB


def test_files_on_their_way_are_not_out_of_sight_for_long(
    tmp_path: Path, held: Callable[..., subprocess.Popen]
) -> None:
    with unlinked(tmp_path) as file:
        holder = held(file.fileno(), SENT)
    assert nameless(str(tmp_path)) == 0
    since = disk.hidden[str(holder.pid)]
    assert nameless(str(tmp_path)) == 0
    assert disk.hidden[str(holder.pid)] == since, "so that it ends when it goes on for long"
    holder.stdin.write(b"take it\n")
    holder.stdout.readline()
    assert nameless(str(tmp_path)) >= 8 * MB and str(holder.pid) not in disk.hidden
