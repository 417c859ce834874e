"""The Hugging Face folder of a checkpoint: the trained weights, with all else of the model that training began from."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from learner.model.policy_model import PolicyModel
from learner.ranks.checkpoints import write_hugging_face


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_has_the_trained_weights_whatever_files_the_first_ones_were_in(tmp_path, tied):
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
    write_hugging_face(folder, model, trained, source)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert {name for name, _ in loaded.named_parameters()} == trained.keys()
    assert all(torch.equal(parameter, trained[name]) for name, parameter in loaded.named_parameters())
    kept = {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"}
    assert {path.name for path in folder.iterdir() if path.suffix != ".safetensors"} <= kept
    assert (folder / "chat_template.jinja").read_text() == "chat_template.jinja"
