"""Wrong values of every key: each is refused by the key's name, or can be read, saved and loaded again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from learner.config.defaults import defaults
from learner.config.load import ConfigError, assign, load
from learner.config.schema import fields

KEYS = {name: kind for name, _, kind in fields()}
NUMBERS = [name for name, kind in KEYS.items() if kind in (int, float)]
OPEN = [name for name, item, _ in fields() if item.metadata["least"] == -1]
"""Numbers of which -1 says that they are left open."""
WORDS = [name for name, kind in KEYS.items() if kind is str or get_args(kind)]


@pytest.fixture(scope="module")
def accepts():
    """Whether a key takes a value; where it does not, the error names both."""
    cfg = defaults()

    def accepts(name: str, value: str) -> bool:
        try:
            assign(cfg, name, value)
        except ConfigError as error:
            assert f"{name}=" in str(error)
            return False
        return True

    return accepts


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", ".nan", "1e400", "-1", "-0.5", "-1e-9", str(10**30), "", "x"])
def test_no_number_is_infinite_or_negative_or_so_large_that_libraries_fail(accepts, value):
    assert [name for name in NUMBERS if accepts(name, value)] == (OPEN if value == "-1" else [])


@pytest.mark.parametrize("value", ["${x}", "/x${y}", "${run.dir}", "${oc.env:HOME}", "???", "[${x}]", "[a,???]"])
def test_nothing_is_left_to_be_filled_in_while_a_run_lasts(accepts, value):
    assert [name for name in KEYS if accepts(name, value)] == []


def test_what_is_named_by_default_cannot_be_unnamed(accepts):
    assert [name for name, item, kind in fields() if kind is str and item.default and accepts(name, "")] == []


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(WORDS), st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12))
def test_any_text_is_refused_by_name_or_is_what_the_run_gets(tmp_path_factory, name, text):
    try:
        cfg = load([f"{name}={text}"])
    except ConfigError as error:
        said = str(error)
        assert name in said or name.partition(".")[0] in said
        return
    value = OmegaConf.select(cfg, name)
    assert value == text or all(isinstance(one, str | int) for one in value)
    file = tmp_path_factory.mktemp("saved") / "config.yaml"
    OmegaConf.save(cfg, file)
    assert OmegaConf.select(load([f"config={file}"]), name) == value


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(NUMBERS), st.floats(allow_nan=True, allow_infinity=True) | st.integers())
def test_any_number_is_refused_by_name_or_is_one_that_can_be_counted_with(name, number):
    try:
        cfg = load([f"{name}={number}"])
    except ConfigError as error:
        assert name in str(error)
        return
    assert math.isfinite(OmegaConf.select(cfg, name)) and OmegaConf.select(cfg, name) >= 0


def test_a_config_file_may_name_its_own_keys_and_the_environment(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SHARED", "/shared")
    file = tmp_path / "mine.yaml"
    file.write_text("run: {dir: '${oc.env:SHARED}/runs'}\nmodel: {context: 1024, response: 64}\n")
    assert load([f"config={file}"]).run.dir == "/shared/runs"
    file.write_text("run: {dir: '${nowhere}'}\n")
    with pytest.raises(ConfigError, match="nowhere"):
        load([f"config={file}"])
