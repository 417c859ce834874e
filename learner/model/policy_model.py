"""A Hugging Face causal LM that maps a packed row to the log-probs of its response tokens.

Two parts differ from the stock model: attention follows the row's segments (`learner.model.attention`), and the output
head returns log-probs and entropies (`learner.model.log_prob_head`). Invariants: parameter names are those of the
Hugging Face model; values equal those of running each prompt + response on its own.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from envs.errors import UserError
from learner.algorithm.batching import Row
from learner.model.attention import ATTENTION, block_mask
from learner.model.log_prob_head import LogProbHead
from learner.model.recompute import lighten


class UnsupportedModelError(UserError):
    """A model whose forward pass the packed rows would change."""


class PolicyModel(nn.Module):
    """The trained policy. `model` is the Hugging Face model, with its output head replaced by `LogProbHead`."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        _check_supported(model)
        model.set_output_embeddings(LogProbHead(model.get_output_embeddings().weight))
        lighten(model)
        self.model = model

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype, gradient_checkpointing: bool = False) -> PolicyModel:
        """The model saved in `folder`, its weights in `dtype`; gradient_checkpointing: recompute each layer's
        activations in the backward pass instead of keeping them."""
        config = _config_of(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype, attn_implementation=ATTENTION)
        return cls._trainable(model, gradient_checkpointing)

    @classmethod
    def empty(cls, folder: Path, dtype: torch.dtype, gradient_checkpointing: bool = False) -> PolicyModel:
        """As `load`, but the parameters are on the meta device: they have shapes and no values. Buffers have theirs."""
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(_config_of(folder), dtype=dtype, attn_implementation=ATTENTION)
        model.tie_weights()  # there, each registration of a parameter makes another
        return cls._trainable(model, gradient_checkpointing)

    @classmethod
    def _trainable(cls, model: PreTrainedModel, gradient_checkpointing: bool) -> PolicyModel:
        model.config.use_cache = False
        if gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return cls(model)

    def forward(self, row: Row, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probs and entropies of the row's N response tokens, float32 [N], and features of its S states.

        The features are the directions of the hidden states at the prompts' last tokens, float32 [S, D], detached.

        temperature: divides the logits; that of sampling gives the log-probs of the distribution sampled from.
        """
        device = self.model.get_input_embeddings().weight.device
        hidden = self.model.get_decoder()(
            input_ids=torch.tensor(row.input_ids, device=device)[None],
            position_ids=torch.tensor(row.position_ids, device=device)[None],
            use_cache=False,
            segments=row.segments,
            blocks=block_mask(row.segments, device) if device.type == "cuda" else None,
        ).last_hidden_state[0]
        losses = torch.tensor(row.loss_positions, device=device)
        targets = torch.tensor(row.target_ids, device=device, dtype=torch.int64)
        logprobs, entropy = self.model.get_output_embeddings()(hidden.index_select(0, losses), targets, temperature)
        last = torch.tensor(row.prompt_ends, device=device)
        return logprobs, entropy, F.normalize(hidden.detach()[last].float(), dim=-1)


def without_dropout(config: PretrainedConfig) -> None:
    """Set every rate of dropout to zero: the policy that is trained is the one that was sampled from."""
    for name, value in vars(config).items():
        if isinstance(value, float) and (name.endswith(("dropout", "_pdrop", "_drop"))):
            setattr(config, name, 0.0)


def _config_of(folder: Path) -> PretrainedConfig:
    config = AutoConfig.from_pretrained(folder)
    without_dropout(config.get_text_config())
    return config


def _check_supported(model: PreTrainedModel) -> None:
    config = model.config
    name = config.architectures[0] if config.architectures else type(model).__name__
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        raise UnsupportedModelError(f"{name}: layers without full attention cannot be trained on shared prompts")
    head = model.get_output_embeddings()
    if getattr(config, "final_logit_softcapping", None) or getattr(head, "bias", None) is not None:
        raise UnsupportedModelError(f"{name}: output heads with a bias or capped logits are not supported")
