"""What a learner rank and an engine take of a card, part by part: arithmetic, on the safe side.

Invariant: nothing is allocated to find out.
"""

from __future__ import annotations

from typing import Any

from actors.policy.arguments import GIB, RESERVE
from actors.policy.sizes import BYTES, ModelSize

CONTEXT = 1.0 * GIB
"""What CUDA, its libraries and the allocator's fragments take in a learner rank."""
HEAD_TOKENS = 512
"""Of a row whose logits a rank holds at once (`learner.model`)."""
BUCKETS = 1.0 * GIB
"""What ZeRO gathers and reduces at once."""


def rank_bytes(cfg: Any, size: ModelSize) -> dict[str, float]:
    """What a learner rank has on its card at most, by part."""
    learner, dtype, ranks = cfg.learner, cfg.model.dtype, cfg.learner.ranks
    sharded = {stage: ranks if learner.zero_stage >= stage else 1 for stage in (1, 2, 3)}
    tokens, whole, adapters = learner.row_tokens, size.bytes(dtype), size.adapter_parameters(learner.lora.rank)
    trained = adapters or size.parameters
    narrow = dtype == "bfloat16" and not adapters
    master = 4 * trained if narrow or learner.zero_stage else 0  # above stage 0 it is a copy even of what is float32
    gradients = trained * (4 if learner.zero_stage or adapters else BYTES[dtype])
    kept = tokens * size.width * BYTES[dtype] if learner.gradient_checkpointing else size.layer_bytes(tokens, dtype)
    activations = kept * size.layers + size.layer_bytes(tokens, dtype) + 2 * size.logit_bytes(HEAD_TOKENS)
    if adapters:
        activations += size.width * size.inner * (4 + BYTES[dtype])  # a layer's merged weight, and it in float32
    if adapters and learner.transfer == "ipc":  # merged weights lie on the card while engines take them, between steps
        activations = max(activations, whole)
    parts = {
        "weights": 0.0 if learner.offload == "all" else whole / sharded[3],
        "adapters": 4 * adapters / sharded[3],
        "gradients": gradients / sharded[2],
        "optimiser": 0.0 if learner.offload != "none" else (master + 8 * trained) / sharded[1],
        "activations": activations,
        "buffers": CONTEXT + (BUCKETS if ranks > 1 else 0.0),
    }
    return parts | ({"reference": 4.0 * adapters or whole / sharded[3]} if cfg.rl.kl else {})


def engine_bytes(cfg: Any, size: ModelSize) -> float:
    """The least that an engine needs on each of its cards: weights, a pass of the model, one sequence."""
    cards, dtype = max(1, int(cfg.actors.gpus)), cfg.model.dtype
    return size.bytes(dtype) / cards + RESERVE + size.cached_bytes(cfg.model.context, dtype) / cards
