"""Every preset runs from end to end as `mlagent rehearse` runs it: its own settings with a tiny random model of its
architecture under its real chat template, small data under the names of its tasks, and recorded experiments.

Engine, DeepSpeed and Ray are stood in for (`tests.whole_run`); the test that is `long` has the real ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from omegaconf import OmegaConf
from transformers import AutoConfig

from learner import rehearse
from learner.config.load import _flatten
from learner.config.schema import CONFIGS
from learner.run import cards, rehearsal
from tests import whole_run
from tests.stand_ins import Seen

ROOT = Path(__file__).parents[3]
TEMPLATES = ROOT / "tests" / "templates"
BUILTIN = ("1gpu-1.5b", "lora-7b-1gpu")
MODELS = {
    "ml-agent-7b": ("qwen2", "qwen2_5.jinja"),
    "qwen3-8b": ("qwen3", "qwen3.jinja"),
    "1gpu-1.5b": ("qwen2", "qwen2_5.jinja"),
    "lora-7b-1gpu": ("qwen2", "qwen2_5.jinja"),
}
"""Architecture and template of the models of presets."""


@pytest.fixture(autouse=True)
def no_card(monkeypatch):
    monkeypatch.setattr(cards, "read", lambda: [])


def published(kind: str, template: str, folder: Path) -> Path:
    """What the hub has of a model, its weights left out."""
    config = AutoConfig.for_model(kind, **rehearsal._tokenizer(folder), num_hidden_layers=40, hidden_size=4096)
    config.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text((TEMPLATES / template).read_text())
    return folder


@pytest.mark.parametrize(
    "preset", ["ml-agent-7b", "qwen3-8b", *(pytest.param(name, marks=pytest.mark.long) for name in BUILTIN)]
)
def test_a_preset_runs_from_end_to_end(preset, tmp_path, monkeypatch, capfd):
    kind, template = MODELS[preset]
    hub = published(kind, template, tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda path, **given: str(hub))
    with whole_run.borders(Seen(None)):
        code = rehearse.main([f"config={preset}", f"run.dir={tmp_path}"])
    said = capfd.readouterr()
    assert code == 0, said.err
    assert f"a tiny random {kind}" in said.out and "ran from end to end" in said.out
    left = whole_run.left(tmp_path, f"{preset}-rehearsal")
    own, asked = (
        OmegaConf.load(file) for file in (tmp_path / f"{preset}-rehearsal/config.yaml", CONFIGS / f"{preset}.yaml")
    )
    assert len(left["steps"]) == 2 and all(step["loss"] is not None for step in left["steps"])
    assert [Path(name).name for name in own.tasks.held_in] == [name.rpartition(":")[2] for name in asked.tasks.held_in]
    assert bool(left["finetune"]) == (own.sft.epochs > 0)
    cut = {*rehearsal.SMALL, *rehearsal.AT_MOST, "model.path", "run.name", "tasks.held_in", "tasks.held_out"}
    for name, value in _flatten(OmegaConf.to_container(asked)):
        assert name in cut or OmegaConf.select(own, name) == value, f"{name} is rehearsed as it is"
    assert (tmp_path / f"{preset}-stand-ins/model/chat_template.jinja").read_text() == (
        TEMPLATES / template
    ).read_text()


def test_without_a_hub_a_plain_model_stands_in_and_says_so(tmp_path, monkeypatch):
    def away(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", away)
    path, said = rehearsal.tiny_model("Qwen/Qwen3-8B", tmp_path / "model")
    assert "tiny random qwen3 with a plain template" in said and "Qwen/Qwen3-8B is not to be had here" in said
    assert json.loads((Path(path) / "config.json").read_text())["model_type"] == "qwen3"
    assert "<|im_start|>" in (Path(path) / "chat_template.jinja").read_text()


def test_a_wrong_key_is_refused_as_by_the_run_itself(capsys):
    assert rehearse.main(["config=ml-agent-7b", "rl.step=1"]) == 2
    assert "unknown key rl.step" in capsys.readouterr().err


@pytest.mark.long
def test_the_papers_experiment_is_rehearsed_with_a_real_engine_and_learner(tmp_path):
    command = [sys.executable, "learner/rehearse.py", "config=ml-agent-7b", f"run.dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = (tmp_path / "ml-agent-7b-rehearsal/metrics.jsonl").read_text().splitlines()
    assert len(rows) == 2 and all(json.loads(row)["logprob_gap_mean"] < 0.01 for row in rows)
