"""The Hugging Face folder of a checkpoint: the trained weights, with all else of the model that training began from."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from learner.model.policy_model import PolicyModel
from learner.ranks import checkpoints


@pytest.mark.parametrize(("tied", "file_bytes"), [(True, 1 << 30), (False, 1 << 30), (True, 4000)])
def test_a_folder_has_the_trained_weights_whatever_files_the_first_ones_were_in(
    tmp_path, monkeypatch, tied, file_bytes
):
    monkeypatch.setattr(checkpoints, "FILE_BYTES", file_bytes)
    source, folder = tmp_path / "source", tmp_path / "hf"
    shape = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=tied,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(shape).save_pretrained(source, max_shard_size="8KB")
    assert len(list(source.glob("*.safetensors"))) > 1 and (source / "model.safetensors.index.json").exists()
    for name in ("tokenizer.json", "chat_template.jinja", "model.Q4.gguf", "pytorch_model.bin", "optimizer.pt"):
        (source / name).write_text(name)
    model = PolicyModel.load(source, torch.float32).model
    trained = {name: parameter.detach() + 1 for name, parameter in model.named_parameters()}
    checkpoints.write_hugging_face(folder, model, model.named_parameters(), iter(trained.items()), source)
    files = list(folder.glob("*.safetensors"))
    assert (len(files) > 2) == (file_bytes < 1 << 30) == (folder / "model.safetensors.index.json").exists()
    assert max(file.stat().st_size for file in files) < file_bytes + 4000, "what a file's header takes"
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert {name for name, _ in loaded.named_parameters()} == trained.keys()
    assert all(torch.equal(parameter, trained[name]) for name, parameter in loaded.named_parameters())
    kept = {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"}
    kept |= {"model.safetensors.index.json"} if len(files) > 1 else set()
    assert {path.name for path in folder.iterdir() if path.suffix != ".safetensors"} <= kept
    assert (folder / "chat_template.jinja").read_text() == "chat_template.jinja"
