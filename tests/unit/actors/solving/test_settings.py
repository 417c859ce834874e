"""The settings of `solve`, and what an engine gets of them."""

from __future__ import annotations

import pytest
from rich.console import Console

from actors.policy.arguments import memory_share
from actors.solving.agents import engine_settings
from actors.solving.settings import SolveError, listed, read_settings, show


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["metrik=MAE"], "unknown setting metrik: did you mean metric?"),
        (["fly=high"], "unknown setting fly: --help lists them"),
        (["20"], "after PATH come settings"),
        (["sandbox=podman"], "sandbox=podman: choose auto, docker, gvisor, process"),
        (["direction=up"], "direction=up: choose maximize, minimize"),
        (["seconds=soon"], "seconds=soon: .*soon"),
        (["seconds=0"], "above 0"),
        (["packages=[xgboost]"], "begin with base or torch"),
        (["model.response=9000"], "leave room"),
        (["model.thinking=[a]"], "two marks"),
        (["model.endpoint=http://x"], "needs model.path"),
    ],
)
def test_a_wrong_setting_is_one_line(given, reason):
    with pytest.raises(SolveError, match=reason) as refused:
        read_settings(given)
    assert "\n" not in str(refused.value)


def test_a_text_is_taken_as_it_is():
    read = read_settings(["metric=Test accuracy: all", "files=[a.py,lib/*.py]", "packages=[base, pyyaml]", "seed=3"])
    assert (read.metric, list(read.files), read.packages, read.seed) == (
        "Test accuracy: all", ["a.py", "lib/*.py"], "base,pyyaml", 3,
    )  # fmt: skip


def test_help_lists_every_setting():
    console = Console(width=200, record=True, quiet=True)
    with console.capture():
        show(console)
    told = Console(width=200, record=True)
    with told.capture() as captured:
        show(told)
    assert all(name in captured.get() for name, _ in listed())


def test_an_engine_on_a_card_finds_all_that_it_reads():
    cfg = engine_settings(read_settings(["actors.gpus=0.5"]), steps=20)
    assert memory_share(cfg) == pytest.approx(0.45)
    assert (cfg.rl.steps, cfg.actors.colocate, cfg.actors.sequences, cfg.run.name) == (20, False, 1, "solve")
