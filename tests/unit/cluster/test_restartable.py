"""A job that is started again resumes its run; the first start begins it."""

from omegaconf import OmegaConf

from cluster.restartable import with_resume
from learner.config.load import load


def test_only_a_run_that_has_come_to_run_is_resumed(tmp_path):
    arguments = [f"run.dir={tmp_path}", "run.name=mine"]
    assert with_resume(arguments) == arguments
    (tmp_path / "mine").mkdir()
    assert with_resume(arguments) == arguments
    (tmp_path / "mine" / "config.yaml").touch()
    assert with_resume(arguments) == arguments, "its settings may have been what was wrong"
    (tmp_path / "mine" / "about.json").touch()
    assert with_resume(arguments) == [*arguments, "run.resume=true"]


def test_what_size_and_gpus_chose_is_gone_on_with(tmp_path):
    arguments = ["size=0.5b", "gpus=2", f"run.dir={tmp_path}", "run.name=mine", "rl.steps=9"]
    begun = load(arguments)
    (tmp_path / "mine/checkpoints").mkdir(parents=True)
    OmegaConf.save(begun, tmp_path / "mine/config.yaml")
    resumed = load(with_resume(arguments))
    assert resumed.run.resume and (resumed.learner, resumed.actors, resumed.rl) == (
        begun.learner, begun.actors, begun.rl,
    )  # fmt: skip
