"""Whether packed rows mean for a model what its sequences mean alone: one small row is held against the stock forward.

A model whose attention or head does something that rows do not (a sliding window, scaled logits) would train on wrong
log-probs without an error. It is tried on a small copy of the architecture with random weights, two layers deep, on the
CPU: what could differ is the code and its settings, not the weights. Invariant: a model that passes gives, for a row of
at most `model.context` tokens a sequence, the log-probs of its Hugging Face implementation.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import parse_local_safetensors_file_metadata
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from learner.algorithm.batching import Group, pack
from learner.model.attention import ATTENTION
from learner.model.policy_model import PolicyModel, UnsupportedModelError, without_dropout

VOCABULARY, INNER, EXPERTS, LAYERS = 256, 64, 4, 2
"""Of the small copy, at most."""
WINDOW = 5
"""Of the small copy, where the model's is shorter than the context: shorter than the sequences that are tried."""
TOLERANCE = 1e-3
"""Nats: rounding gives a hundredth of it, a setting that is ignored a thousand times it."""


def require_same_forward(folder: Path, context: int) -> None:
    """Refuse the model of a Hugging Face folder where packed rows would change it.

    context: most tokens of a sequence.

    Raises:
        UnsupportedModelError: log-probs differ, or checkpoints name its parameters otherwise than its code.
    """
    config = AutoConfig.from_pretrained(folder)
    require_names(config, _names_in(folder))
    if (gap := largest_gap(config, context)) > TOLERANCE:
        raise UnsupportedModelError(
            f"{_name(config)}: its log-probs on packed rows are up to {gap:.2g} nats from those of its own forward "
            "pass (a sliding window shorter than model.context, scaled logits, or an attention of its own): to train "
            "it, learner/model/attention.py or log_prob_head.py must do the same"
        )


def largest_gap(config: PretrainedConfig, context: int) -> float:
    """Between the log-probs of a packed row and of its sequences alone, in nats.

    Raises:
        UnsupportedModelError: the model is known not to work.
    """
    model = _small(config, context)
    rng, tokens = np.random.default_rng(0), model.config.vocab_size
    common = rng.integers(0, tokens, 4)
    groups = [
        Group(
            np.concatenate([common[:shared], rng.integers(0, tokens, own)]).astype(np.int32),
            tuple(rng.integers(0, tokens, length).astype(np.int32) for length in lengths),
        )
        for shared, own, lengths in ((4, 4, (6, 3)), (4, 0, (5,)), (0, 7, (4, 8)))
    ]
    (row,) = pack(groups, 200)
    with torch.no_grad():
        alone = torch.cat([_alone(model, group.prompt_ids, one) for group in groups for one in group.responses])
        model.set_attn_implementation(ATTENTION)
        got = PolicyModel(model).eval()(row)[0]
    return float((got - alone[torch.from_numpy(row.token_index).long()]).abs().max())


def _alone(model: Any, prompt: np.ndarray, response: np.ndarray) -> torch.Tensor:
    """float32 [R]: log-probs of a response's tokens after its prompt."""
    ids = torch.from_numpy(np.concatenate([prompt, response])).long()
    logits = model(ids[None], use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, torch.from_numpy(response).long()[:, None])[:, 0]


def _small(config: PretrainedConfig, context: int) -> Any:
    """The architecture with two small layers, its weights the same each time."""
    small = copy.deepcopy(config.get_text_config())
    without_dropout(small)
    _at_most(small, {"vocab_size": VOCABULARY, "intermediate_size": INNER, "moe_intermediate_size": INNER})
    _at_most(small, {"num_local_experts": EXPERTS, "num_experts": EXPERTS, "n_routed_experts": EXPERTS})
    small.num_hidden_layers = min(small.num_hidden_layers, LAYERS)
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[: small.num_hidden_layers]
    if (window := getattr(small, "sliding_window", None)) and window < context:
        small.sliding_window = WINDOW
    for token in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(small, token, None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(small, attn_implementation="eager", dtype=torch.float32).eval()


def _at_most(config: PretrainedConfig, limits: dict[str, int]) -> None:
    for name, most in limits.items():
        if isinstance(value := getattr(config, name, None), int) and value > most:
            setattr(config, name, most)


def require_names(config: PretrainedConfig, stored: Iterable[str]) -> None:
    """Refuse a model that Transformers builds with other parameters than checkpoints have: engines know those of
    checkpoints, and could not be given new weights.

    Raises:
        UnsupportedModelError: checkpoints have no such parameter.
    """
    ends = {_end(name) for name in stored}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tied = getattr(config.get_text_config(), "tie_word_embeddings", False)
    head = model.get_output_embeddings()
    wrong = [
        name for name, one in model.named_parameters() if _end(name) not in ends and not (tied and one is head.weight)
    ]
    if wrong:
        raise UnsupportedModelError(
            f"{_name(config)}: checkpoints have no {', '.join(wrong[:2])} ({len(wrong)} such): a mapping of these "
            "names to those of checkpoints would have to be written, for vLLM to take new weights"
        )


def _end(name: str) -> str:
    """The name without its beginnings, which differ between a model and its parts."""
    return ".".join(name.split(".")[-3:])


def _names_in(folder: Path) -> set[str]:
    headers = (parse_local_safetensors_file_metadata(file) for file in Path(folder).glob("*.safetensors"))
    return {name for header in headers for name in header.tensors}


def _name(config: PretrainedConfig) -> str:
    return config.architectures[0] if config.architectures else type(config).__name__.removesuffix("Config")
