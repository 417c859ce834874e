"""What `make train` says before it does anything."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from actors.policy.model import resolve
from actors.policy.sizes import ModelSize
from cluster import announcement, quickstart
from learner.config.load import load


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    monkeypatch.setattr(announcement.machine, "free_mb", lambda: 7 * 1024.0)
    monkeypatch.setattr(announcement.machine, "cores", lambda: 2)


def said(*arguments: str, here: bool = True) -> str:
    return "\n".join(announcement.announced(load([*arguments]), here))


def test_the_quickstart_is_told_with_its_time_and_its_needs():
    text = said("config=quickstart", "run.dir=/here")
    assert "training builtin:smollm2-135m on wine, wine_alcohol, diabetes, digits: explore (240 trajectories" in text
    assert "fine-tune (2 epochs), reinforce (8 steps of 32 samples)" in text
    assert "also on breast_cancer, iris_petal" in text and "takes about 20 minutes on 2 idle cores" in text
    assert "needs 9.87 GiB of memory, and 7 GiB are free: it takes what needs less" in text
    assert "up to 5.26 GiB of disk" in text, "three checkpoints are made"
    assert "up to 7.02 GiB of disk" in said("config=quickstart", "rl.steps=90"), "of more, four are there at once"
    assert "results in /here/quickstart; Ctrl-C ends it, run.resume=true goes on with it" in text


@pytest.mark.parametrize("change", ["rl.steps=9", "sft.epochs=1", "tasks.held_out=[]", "model.path=org/model"])
def test_a_time_is_told_only_of_what_was_measured(change):
    text = said("config=quickstart", change)
    assert "20 minutes" not in text and "takes a time that these settings decide" in text


def test_a_run_that_is_resumed_is_the_one_that_was_recorded(tmp_path, monkeypatch, capsys):
    def started():
        raise OSError("no cluster is to be had")

    monkeypatch.setattr(quickstart, "cluster", started)
    monkeypatch.setattr(quickstart.signal, "signal", lambda *_: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    arguments = [f"run.dir={tmp_path}", "run.resume=true"]
    assert quickstart.main(arguments) == 2
    assert "quickstart holds no run" in capsys.readouterr().err
    (tmp_path / "quickstart").mkdir()
    OmegaConf.save(load(["config=quickstart", "rl.steps=20", *arguments[:1]]), tmp_path / "quickstart/config.yaml")
    assert quickstart.main(arguments) == 1
    text = capsys.readouterr().out
    assert "reinforce (20 steps of 32 samples)" in text and "takes a time that these settings decide" in text
    assert "model.dtype" not in text, "what this machine would have given it is in the record"
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:8265")
    assert quickstart.main(["run.dir=/not/here", "run.resume=yes"]) == 1
    assert capsys.readouterr().out == "going on with quickstart\n", "its folder need not be seen here"


def test_what_is_small_needs_less_and_no_memory_is_told_of_what_is_elsewhere():
    assert "20 minutes" in said("config=quickstart", "rl.learning_rate=1e-5", "run.name=other")
    assert "are free; " in said("config=quickstart", "learner.gpus=1")
    assert "some minutes on a GPU" in said("config=quickstart", "learner.gpus=1")
    assert "memory" not in said("config=quickstart", here=False)
    assert "memory" not in said("config=quickstart", "model.path=org/model")
    assert "explore (done by runs/expert)" in said("config=smoke", "experts.path=runs/expert")


def test_the_size_of_the_builtin_model_is_its_own():
    assert ModelSize.read(resolve("builtin:smollm2-135m")) == announcement.BUILTIN_SIZE


@pytest.mark.parametrize("files", [{}, {"config.json": "{"}, {"config.json": "{}"}, {"model.safetensors": "none"}])
def test_a_folder_that_is_no_model_is_left_to_the_run(files, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert "memory" not in said("config=quickstart", f"model.path={tmp_path}")


def test_it_comes_before_anything_is_started(monkeypatch, capsys):
    def started():
        raise OSError("no cluster is to be had")

    monkeypatch.setattr(quickstart, "cluster", started)
    monkeypatch.setattr(quickstart.signal, "signal", lambda *_: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert quickstart.main(["rl.steps=3"]) == 1
    shown = capsys.readouterr()
    assert "reinforce (3 steps" in shown.out and "needs" in shown.out and "no cluster is to be had" in shown.err
