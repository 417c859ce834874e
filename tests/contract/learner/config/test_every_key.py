"""Every key of the configuration arrives: changed, it makes a difference at the border of each part that uses it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from learner.config.schema import fields
from tests.contract.learner.config.cases import CASES, Bench, Case, case, unmoved


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_KEY", "secret")
        yield Bench(tmp_path_factory.mktemp("keys"))


def test_the_table_has_every_key_and_no_other() -> None:
    assert {one.key for one in CASES} == {name for name, _, _ in fields()}


def test_what_is_seen_does_not_differ_by_itself(bench: Bench) -> None:
    for same in (case("run.name=seen"), case("run.name=seen", by="evaluate")):
        assert bench.with_change(same) == bench.without(same)


@pytest.mark.parametrize("of", CASES, ids=lambda of: " ".join([of.change, of.by, *of.given]))
def test_a_key_makes_its_difference(bench: Bench, of: Case) -> None:
    assert unmoved(bench.without(of), bench.with_change(of), of) == []
