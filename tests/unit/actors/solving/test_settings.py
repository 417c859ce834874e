"""The settings of `solve`, and what an engine gets of them."""

from __future__ import annotations

import dataclasses

import pytest
from rich.console import Console

from actors.policy.arguments import memory_share
from actors.solve import main
from actors.solving.agents import engine_settings
from actors.solving.settings import SolveError, listed, read_settings, show
from learner.config.schema import LimitsConfig, PromptConfig


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["metrik=MAE"], "unknown setting metrik: did you mean metric?"),
        (["fly=high"], "unknown setting fly: --help lists them"),
        (["20"], "after PATH come settings"),
        (["sandbox=podman"], "sandbox=podman: choose auto, docker, gvisor, process"),
        (["direction=up"], "direction=up: choose maximize, minimize"),
        (["seconds=60"], "unknown setting seconds: did you mean tasks.limits.seconds?"),
        (["tasks.limits.seconds=soon"], "seconds=soon: .*soon"),
        (["tasks.limits.memory_mb=-1"], "from 0 on"),
        (["prompt.history=-2"], "prompt.history=-2: it must be a number from -1 on"),
        (["prompt.actions=all"], "choose auto, thought, whole"),
        (["packages=[xgboost]"], "begin with base or torch"),
        (["packages=torch", "requirements=paper"], "leave packages out"),
        (["gpus=[0,-1]"], "gpus=.0, -1.: ids of GPUs"),
        (["model.response=9000"], "leave room"),
        (["model.thinking=[a]"], "two marks"),
        (["model.thinking=[a: b,c]"], "two marks"),
        (["model.thinking={a: b}"], "Cannot merge"),
        (["model.endpoint=http://x"], "needs model.path"),
        (["gpus=[a"], "gpus=.a: while parsing a flow sequence"),
        (["gpus=[*a]"], "gpus=..a.: found undefined alias"),
        (["about=in ${HOME}"], "write out what is meant"),
        (["model.template_arguments.mode=${x}"], "write out what is meant"),
        (["metric=???"], "write out what is meant"),
        (["model.temperature=nan"], "model.temperature=nan: it must be a number from 0 on"),
        (["model.temperature=inf"], "model.temperature=inf: it must be a number from 0 on"),
        (["actors.gpus=-1"], "actors.gpus=-1.0: it must be a number from 0 on"),
        (["actors.deadline=0"], "actors.deadline=0.0: it must be a number above 0"),
        (["model.context=-8"], "model.context=-8"),
        (["model.dtype=bf16"], "model.dtype=bf16: choose bfloat16, float16, float32"),
    ],
)
def test_a_wrong_setting_is_one_line(given, reason):
    with pytest.raises(SolveError, match=reason) as refused:
        read_settings(given)
    assert "\n" not in str(refused.value)


def test_cards_that_are_asked_for_must_be_named(capsys):
    assert main(["wine", "tasks.limits.gpus=2", "gpus=[0,0]"]) == 2
    assert "wine asks for 2 GPUs: name their ids, as gpus=[0], or set tasks.limits.gpus=0" in capsys.readouterr().err


def test_a_text_is_taken_as_it_is():
    read = read_settings(["metric=Test accuracy: all", "files=[a.py,lib/*.py]", "packages=[base, pyyaml]", "seed=3"])
    assert (read.metric, list(read.files), read.packages, read.seed) == (
        "Test accuracy: all", ["a.py", "lib/*.py"], "base,pyyaml", 3,
    )  # fmt: skip
    assert list(read_settings(["files=[*.py, 'lib/[ab]*.py']"]).files) == ["*.py", "lib/[ab]*.py"]
    assert list(read_settings(["files=*.py"]).files) == ["*.py"]
    assert list(read_settings(["model.thinking=[<think>,</think>]"]).model.thinking) == ["<think>", "</think>"]
    quoted = read_settings([r'model.thinking=["<think>\n", " a, b "]'])
    assert list(quoted.model.thinking) == ["<think>\n", " a, b "]


def test_prompts_and_limits_have_the_keys_of_a_run():
    for kind, of in (("prompt", PromptConfig), ("tasks.limits", LimitsConfig)):
        of_run = [f"{kind}.{one.name}" for one in dataclasses.fields(of)]
        assert [name for name, _ in listed() if name.startswith(f"{kind}.")] == of_run


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
