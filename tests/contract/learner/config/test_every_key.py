"""Every key of the configuration arrives: changed, it makes a difference at the border of each part that uses it."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from learner.config.schema import fields
from tests import apart
from tests.contract.learner.config.cases import CASES, SHORTER, Bench, Case, case, unmoved


@pytest.fixture(scope="module")
def seen(
    request: pytest.FixtureRequest, elsewhere: Executor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future]]:
    """What is seen of each case that a test here asks for, by its name: all begun at once."""
    asked = [
        item.callspec.params["of"] for item in request.session.items if "seen" in getattr(item, "fixturenames", ())
    ]
    folder = tmp_path_factory.mktemp("keys")
    coming = {name(of): elsewhere.submit(apart.told, _seen, folder, of) for of in asked}
    yield coming
    for one in coming.values():
        one.cancel()


def name(of: Case) -> str:
    return " ".join([of.change, of.by, *of.given])


@functools.cache
def _bench(folder: Path) -> Bench:
    """Of the process in which it is asked for."""
    os.environ["MY_KEY"] = "secret"
    return Bench(Path(tempfile.mkdtemp(dir=folder)))


def _seen(folder: Path, of: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    return _bench(folder).without(of), _bench(folder).with_change(of)


def test_the_table_has_every_key_and_no_other() -> None:
    assert {one.key for one in CASES} == {name for name, _, _ in fields()}


@pytest.mark.parametrize("of", [case("run.name=seen", by=by) for by in ("run", *SHORTER, "evaluate")], ids=name)
def test_what_is_seen_does_not_differ_by_itself(seen: dict[str, Future], of: Case) -> None:
    without, again = apart.result(seen[name(of)])
    assert without == again


@pytest.mark.parametrize("of", CASES, ids=name)
def test_a_key_makes_its_difference(seen: dict[str, Future], of: Case) -> None:
    assert unmoved(*apart.result(seen[name(of)]), of) == []
