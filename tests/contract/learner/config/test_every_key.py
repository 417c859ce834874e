"""Every key of the configuration arrives: changed, it makes a difference at the border of each part that uses it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest

from learner.config.schema import fields
from tests import apart
from tests.contract.learner.config.cases import CASES, Bench, Case, case, unmoved

_bench: Bench
"""Of the process of `bench`, in which all that is observed runs."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    with apart.process(_begin, tmp_path_factory.mktemp("keys")) as its_own:
        yield its_own


def _begin(folder: Path) -> None:
    global _bench
    os.environ["MY_KEY"] = "secret"
    _bench = Bench(folder)


def _seen(of: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    return _bench.without(of), _bench.with_change(of)


def test_the_table_has_every_key_and_no_other() -> None:
    assert {one.key for one in CASES} == {name for name, _, _ in fields()}


@pytest.mark.parametrize("by", ["run", "start", "evaluate"])
def test_what_is_seen_does_not_differ_by_itself(bench: Executor, by: str) -> None:
    without, again = apart.ask(bench, _seen, case("run.name=seen", by=by))
    assert without == again


@pytest.mark.parametrize("of", CASES, ids=lambda of: " ".join([of.change, of.by, *of.given]))
def test_a_key_makes_its_difference(bench: Executor, of: Case) -> None:
    assert unmoved(*apart.ask(bench, _seen, of), of) == []
