"""An experiment is over its limit of memory when it has more than that, by whatever its processes show and share."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from envs.sandbox import memory

LIMIT_MB = 600
SHARED_MB = 12
"""A multiple of it is evenly divided by up to four processes."""


class Machine:
    """Forks that share what they began with, as /proc shows them; sizes in MiB."""

    def __init__(self, shared: int, number: int):
        self.now, self.shared, self.own = 1.0, shared, [0] * number

    @property
    def total(self) -> int:
        return self.shared + sum(self.own)

    def processes(self) -> list[str]:
        return [str(place) for place in range(len(self.own))]

    def read(self, process: str, file: str) -> bytes:
        if not process.isdigit():
            return b""
        own = self.own[int(process)]
        if file == "status":
            return f"Name:\tpython\nRssAnon:\t{self.shared + own << 10} kB\nVmSwap:\t0 kB\n".encode()
        if file == "smaps_rollup":
            return f"Pss:\t1 kB\nPss_Anon:\t{self.shared // len(self.own) + own << 10} kB\nSwapPss:\t0 kB\n".encode()
        return f"{process} (a ) b) S 1 1 1 0 -1 0 {(own << 20) // os.sysconf('SC_PAGESIZE')} 0 0".encode()


@given(
    st.integers(0, 60),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), min_size=5, max_size=40),
)
@example(26, 2, [(0, 20)] * 20)
def test_whoever_has_more_than_the_limit_is_told_from_whoever_shows_more(
    shared: int, number: int, taken: list[tuple[int, int]]
) -> None:
    machine = Machine(shared * SHARED_MB, number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: machine.now)
        patch.setattr(os, "kill", lambda *_: None)
        patch.setattr(memory, "processes", machine.processes)
        patch.setattr(memory, "read", machine.read)
        patch.setattr(memory, "new_huge_pages", lambda: 0)
        watch = memory.Watch(LIMIT_MB << 20, number, ())
        for process, more in taken:
            machine.own[process % number] += more
            assert watch.due > machine.now
            machine.now = watch.due
            assert watch.over() == (machine.total > LIMIT_MB)
