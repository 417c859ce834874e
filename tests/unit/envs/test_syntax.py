"""Threads that parse at the same time, while garbage is collected."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from envs import syntax

TEXT = "\n".join(f"x{number} = f(a + {number}, [b for b in c if b > {number}])" for number in range(150))


class Garbage:
    """In a cycle, and takes a while to go."""

    def __init__(self) -> None:
        self.cycle = self

    def __del__(self) -> None:
        for _ in range(50):
            pass


@pytest.fixture
def eager_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_threads")
def test_texts_are_parsed_by_several_threads() -> None:
    def parse(_: int) -> tuple[int, str]:
        Garbage()
        return len(syntax.parsed(TEXT).body), syntax.expression("f(a)").func.id

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(parse, range(60))) == {(150, "f")}


def test_scripts_mean_the_same_whatever_their_comments_layout_and_idle_imports():
    script = "import os\nfrom a import b, c\n\nprint(os, b(1), c)\n"
    same = "# new\nimport os\nimport os\nimport sys\nfrom a import b, c\nprint(os,\n      b(1), c)  # and so on\n"
    assert syntax.meaning(script) == syntax.meaning(same)
    others = [
        script.replace("1", "2"),
        script.replace("from a", "from d"),
        f"from sklearn.experimental import enable_iterative_imputer\n{script}",
        script.replace("import os", "import ntpath as os"),
        "def (",
    ]
    assert len({syntax.meaning(text) for text in (script, *others)}) == len(others) + 1
