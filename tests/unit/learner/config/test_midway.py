"""A resumed run is the run that was begun: what it recorded, and on top only what makes sense midway."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from learner.config import midway
from learner.config.load import ConfigError, load
from learner.config.schema import Config, fields

BEGUN = ("config=quickstart", "rl.steps=20", "learner.gpus=0.5", "actors.gpus=0.5", "reward.steepness=7")


@pytest.fixture
def resumed(tmp_path: Path) -> Callable[..., Config]:
    """The configuration of a run that was begun with `BEGUN`, resumed with more arguments."""
    begun = load([*BEGUN, "run.dir=elsewhere"])
    (tmp_path / "quickstart").mkdir()
    OmegaConf.save(begun, tmp_path / "quickstart/config.yaml")

    def again(*arguments: str, say: Callable[[str], None] = print) -> Config:
        return load([f"run.dir={tmp_path}", "run.name=quickstart", "run.resume=true", *arguments], say)

    return again


def told(resumed: Callable[..., Config], *arguments: str) -> list[str]:
    """What such a run says that it changes."""
    changes = midway.differences(load([*BEGUN]), resumed(*arguments))
    return [f"{name}: {then} {now}" for name, then, now in changes]


def test_it_has_what_the_run_recorded(resumed, tmp_path):
    cfg = resumed()
    assert told(resumed) == []
    assert (cfg.rl.steps, cfg.reward.steepness, cfg.sft.epochs, cfg.learner.transfer) == (20, 7.0, 2, "ipc")
    assert (cfg.run.dir, cfg.run.resume) == (str(tmp_path), True), "its folder may have been moved"


def test_what_the_command_line_gives_is_a_difference(resumed):
    assert told(resumed, "rl.steps=30", "reward.steepness=7", "rl.clip=0.3") == ["rl.steps: 20 30", "rl.clip: 0.2 0.3"]


def test_a_config_file_names_the_run_and_what_else_it_says_is_not_taken_silently(resumed, tmp_path):
    said: list[str] = []
    file = tmp_path / "mine.yaml"
    file.write_text("rl: {steps: 5, clip: 0.2}\nreward: {steepness: 3}\nactors: {sequences: 8}\n")
    cfg = resumed(f"config={file}", "actors.sequences=32", say=said.append)
    assert (cfg.rl.steps, cfg.reward.steepness, cfg.actors.sequences) == (20, 7.0, 32)
    assert said == [
        f"reward.steepness stays 7.0, as the run recorded it: config={file} has 3.0",
        f"rl.steps stays 20, as the run recorded it: config={file} has 5",
    ]


@pytest.mark.parametrize(
    ("argument", "why"),
    [
        ("model.path=another", "model.path=another: a resumed run keeps model.path=builtin:smollm2-135m, since the"),
        ("rl.algorithm=ppo", "an optimiser of that kind"),
        ("learner.lora.rank=8", "an optimiser of that kind"),
        ("tasks.held_out=[wine]", "could not be compared"),
        ("reward.version=v2", "could not be compared"),
        ("experts.steps=9", "the states of the pool"),
        ("sft.epochs=1", "the states of the pool"),
        ("rl.actions=4", "still to be trained"),
        ("run.seed=3", "run.seed=3: a resumed run keeps run.seed=0, since what was drawn"),
        ("rl.kl=0.1", "no copy of the fine-tuned policy was kept"),
        ("model.thinking=[<t>,</t>]", "the states of the pool"),
        ("prompt.history=1", "the states of the pool"),
        ("tasks.limits.seconds=5", "could not be compared"),
        ("sandbox.backend=simulated", "could not be compared"),
        ("sandbox.image=another", "could not be compared"),
    ],
)
def test_what_makes_no_sense_midway_is_refused_by_name(resumed, argument, why):
    with pytest.raises(ConfigError, match=argument.partition("=")[0]) as refused:
        resumed(argument)
    assert why in str(refused.value) and "another run.name" in str(refused.value)


@pytest.mark.parametrize(
    "argument",
    [
        "experts.endpoint=http://there/v1",
        "sft.checkpoint_every=9",
        "model.context=1536",
        "evaluation.every=2",
        "sandbox.backend=process",
        "rl.discount=0.5",
        "rl.refill=2",
        "rl.sampling=progress",
    ],
)
def test_what_only_says_where_or_says_the_same_is_not(resumed, argument):
    resumed(argument)


def test_fewer_steps_than_were_taken_are_refused(resumed, tmp_path):
    for name in ("step_5", "step_12", "best"):
        (tmp_path / "quickstart/checkpoints" / name).mkdir(parents=True)
    with pytest.raises(ConfigError, match="rl.steps=8: the run's last checkpoint is of step 12"):
        resumed("rl.steps=8")
    assert resumed("rl.steps=12").rl.steps == 12, "which ends it there"


def test_every_key_of_the_table_is_there_and_a_key_of_a_fixed_section_is_fixed():
    keys = [name for name, _, _ in fields()]
    named = [name for names in midway.FIXED.values() for name in names]
    assert [name for name in named if not any(f"{key}.".startswith(f"{name}.") for key in keys)] == []
    assert set(midway.FREE) <= set(keys) and not any(map(midway.fixed, [*midway.FREE, *midway.IDENTITY]))
    assert midway.fixed("model.template_arguments.deep")
    assert midway.fixed("reward.time") and not midway.fixed("rl.steps") and not midway.fixed("rl.states_of_mine")


def test_what_cannot_be_resumed_is_one_line(resumed, tmp_path):
    with pytest.raises(ConfigError, match="there holds no run \\(no config.yaml\\): name another by run.name"):
        resumed("run.name=there")
    record = tmp_path / "quickstart/config.yaml"
    record.write_text(record.read_text() + "gone: {key: 1}\n")
    with pytest.raises(ConfigError, match="quickstart/config.yaml: unknown key gone.key"):
        resumed()


def test_a_run_of_an_earlier_version_has_the_defaults_of_keys_that_it_lacks(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("run: {resume: true}\nrl: {steps: 3}\n")
    cfg = load([f"run.dir={tmp_path}", "run.resume=true"])
    assert (cfg.rl.steps, cfg.rl.states) == (3, Config().rl.states)


def test_the_arguments_that_resume_a_run_name_its_folder_where_it_is_not_the_usual_one(resumed, tmp_path):
    assert midway.again(load(["config=smoke"])) == "run.resume=true run.name=smoke"
    assert midway.again(resumed()) == f"run.resume=true run.name=quickstart run.dir={tmp_path}"
