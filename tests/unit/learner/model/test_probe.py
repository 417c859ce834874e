"""Models that packed rows would change are found out before they train."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from learner.model.policy_model import PolicyModel, UnsupportedModelError
from learner.model.probe import TOLERANCE, largest_gap, require_names, require_same_forward

SHAPE = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip
CONTEXT = 1536


def config(kind: str, **keys):
    return CONFIG_MAPPING[kind](**{**SHAPE, **keys})


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("llama", {"vocab_size": 61}),
        ("llama", {"tie_word_embeddings": True, "attention_dropout": 0.5}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 16}),
        ("gemma", {"head_dim": 16}),
        ("olmo2", {}),
        ("smollm3", {}),
        ("mistral", {"sliding_window": None}),
        ("mistral", {"sliding_window": 4096}),
        ("gpt_neox", {}),
    ],
)
def test_rows_mean_for_these_what_their_sequences_mean(kind, keys):
    assert largest_gap(config(kind, **keys), CONTEXT) < TOLERANCE / 10


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("mistral", {"sliding_window": 1024}),
        ("phi3", {"sliding_window": 1024}),
        ("granite", {"logits_scaling": 8.0}),
        ("cohere", {"logit_scale": 0.0625}),
    ],
)
def test_what_rows_would_change_is_refused_with_its_name(kind, keys, tmp_path):
    changed = config(kind, **keys)
    AutoModelForCausalLM.from_config(changed).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=rf"(?i){kind}.* nats from those of its own forward pass"):
        require_same_forward(tmp_path, CONTEXT)


def test_the_models_of_the_project_pass(tiny_model):
    require_same_forward(tiny_model, CONTEXT)


def test_parameters_that_checkpoints_name_otherwise_are_named():
    stored = [
        f"model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight" for layer in (0, 1) for expert in (0, 1)
    ]
    with pytest.raises(UnsupportedModelError, match=r"checkpoints have no .*experts.*mapping of these names"):
        require_names(config("mixtral", num_local_experts=2, num_hidden_layers=2), [*stored, *_others()])


def _others() -> list[str]:
    """Names of a checkpoint's parameters that are no experts."""
    names = dict(AutoModelForCausalLM.from_config(config("mixtral", num_local_experts=2)).named_parameters())
    return [name for name in names if "experts" not in name]


def test_a_policy_is_loaded_without_dropout(tmp_path):
    AutoModelForCausalLM.from_config(config("llama", attention_dropout=0.5)).save_pretrained(tmp_path)
    model = PolicyModel.load(tmp_path, torch.float32).model
    assert model.config.attention_dropout == 0.0
    assert {layer.self_attn.attention_dropout for layer in model.model.layers} == {0.0}
