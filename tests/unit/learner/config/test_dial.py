"""`size` and `gpus` choose what fits around what is given, and presets are those choices with their own settings."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from envs.benchmarks.loader import builtin_tasks
from learner.config.dial import SIZES
from learner.config.load import ConfigError, load
from learner.config.schema import Config

SEVEN_B = "Qwen/Qwen2.5-7B-Instruct"


def chosen(*arguments: str) -> tuple[Config, str]:
    said: list[str] = []
    cfg = load(list(arguments), said.append)
    assert len(said) == 1
    return cfg, said[0]


def cards(cfg: Config) -> float:
    return cfg.learner.ranks * cfg.learner.gpus + cfg.actors.count * cfg.actors.gpus


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["size=1.5b", "gpus=1"], {"ranks": 1, "gpus": 0.5, "lora": 0, "offload": "none", "turns": False}),
        (["size=7b", "gpus=1"], {"ranks": 1, "gpus": 0.5, "lora": 32, "offload": "none", "turns": False}),
        (["size=7b", "gpus=1", "learner.lora.rank=0"], {"lora": 0, "offload": "optimizer", "turns": True}),
        (["size=7b", "gpus=8"], {"ranks": 4, "gpus": 1.0, "lora": 0, "engines": 4, "turns": False}),
        (["size=1.5b", "gpus=1x24"], {"gpus": 0.5, "lora": 32}),
        (["size=32b", "gpus=8"], {"lora": 32, "engines": 2, "of_engine": 2.0, "stage": 3}),
    ],
)
def test_what_fits_is_chosen_and_said(arguments, expected):
    cfg, said = chosen(*arguments)
    learner, actors = cfg.learner, cfg.actors
    found = {
        "ranks": learner.ranks, "gpus": learner.gpus, "lora": learner.lora.rank, "offload": learner.offload,
        "turns": actors.colocate, "engines": actors.count, "of_engine": actors.gpus, "stage": learner.zero_stage,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert cards(cfg) == int(arguments[1].partition("=")[2].partition("x")[0])
    assert f"learner.ranks={learner.ranks}" in said and "a learner rank takes" in said
    assert cfg.model.path in {about[0] for about in SIZES.values()}


def test_what_is_given_wins_wherever_it_is_given(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("size: 7b\ngpus: 8\nmodel: {context: 16384}\nlearner: {ranks: 6}\n")
    cfg, said = chosen(f"config={file}", "rl.learning_rate=3e-6")
    assert (cfg.model.context, cfg.learner.ranks, cfg.rl.learning_rate) == (16384, 6, 3e-6)
    assert cfg.model.response == 1024 and cards(cfg) <= 8
    assert not any(name in said for name in ("model.context=", "learner.ranks=", "rl.learning_rate="))
    other, _ = chosen(f"config={file}", "gpus=16", "size=14b")
    assert (other.learner.ranks, other.model.context, other.actors.count) == (6, 16384, 10)
    adapted, _ = chosen("size=7b", "gpus=8", "learner.lora.rank=16")
    assert adapted.learner.lora.rank == 16 and adapted.rl.learning_rate == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["size=7b"], "size and gpus go together"),
        (["gpus=8"], "gpus=8 needs size: choose one of 0.5b"),
        (["size=9b", "gpus=1"], "size=9b: choose one of 0.5b"),
        (["size=7b", "gpus=none"], "gpus=none: give how many cards"),
        (["size=7b", "gpus=2x0"], "gpus=2x0: give how many cards"),
        (["size=32b", "gpus=1x24"], "size=32b does not fit on gpus=1x24"),
        (["size=7b", "gpus=1", "learner.ranks=4", "learner.gpus=1"], "does not fit on gpus=1"),
    ],
)
def test_what_cannot_be_chosen_is_refused_by_name(arguments, says):
    with pytest.raises(ConfigError) as refused:
        load(arguments)
    assert says in str(refused.value)


def test_a_resumed_run_keeps_what_was_chosen(tmp_path):
    cfg, _ = chosen("size=7b", "gpus=8", f"run.dir={tmp_path}")
    (tmp_path / "run").mkdir()
    OmegaConf.save(cfg, tmp_path / "run/config.yaml")
    again = load(["run.resume=true", f"run.dir={tmp_path}"])
    assert (again.size, again.learner.ranks, again.model.path) == ("7b", 4, SEVEN_B)
    with pytest.raises(ConfigError, match=r"gpus chooses what a new run has"):
        load(["run.resume=true", f"run.dir={tmp_path}", "gpus=4"])


PAPER_IN = {
    "cifar10", "aerial-cactus-identification", "dogs-vs-cats-redux-kernels-edition", "plant-pathology-2020-fgvc7",
    "house-price", "spaceship-titanic", "nomad2018-predict-transparent-conductors", "feedback", "ogbn-arxiv",
}  # fmt: skip


def test_the_papers_experiment_has_its_settings():
    cfg, _ = chosen("config=ml-agent-7b")
    assert {name.rpartition(":")[2] for name in cfg.tasks.held_in} == PAPER_IN and len(cfg.tasks.held_out) == 10
    assert (cfg.model.path, cfg.model.context) == ("Qwen/Qwen2.5-7B", 16384)
    assert (cfg.rl.algorithm, cfg.rl.steps, cfg.reward.version, cfg.reward.steepness) == ("ppo", 40, "v1", 100)
    assert (cfg.sft.learning_rate, cfg.sft.epochs, cfg.sft.batch) == (2e-5, 2, 64)
    assert (cfg.evaluation.steps, cfg.evaluation.seconds) == (15, 1800)
    assert (cfg.prompt.history, cfg.prompt.actions) == (15, "whole")


@pytest.mark.parametrize(
    ("preset", "count"), [("ml-agent-7b", 8), ("qwen3-8b", 8), ("1gpu-1.5b", 1), ("lora-7b-1gpu", 1)]
)
def test_presets_fill_the_cards_that_they_are_for_and_can_be_told_of_others(preset, count):
    cfg, _ = chosen(f"config={preset}")
    assert cards(cfg) == count and cfg.run.name == preset
    assert all(":" in name or name in builtin_tasks() for name in [*cfg.tasks.held_in, *cfg.tasks.held_out])
    other, _ = chosen(f"config={preset}", "gpus=4")
    assert cards(other) == 4
