"""Learning rates as pure functions of the step."""

from __future__ import annotations

import math

SFT_WARMUP = 0.1
"""Share of the fine-tuning steps over which the rate rises."""
RL_WARMUP_STEPS = 3
"""RL steps over which the rate rises while the optimiser's moments settle."""


def warmup_cosine(step: int, total: int, peak: float) -> float:
    """Learning rate of `step` (0 … total−1): linear rise to `peak`, then cosine decay towards zero."""
    warmup = max(1, round(SFT_WARMUP * total))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def warmup_constant(step: int, peak: float) -> float:
    """Learning rate of `step` (0, 1, …): linear rise to `peak`, then constant."""
    return peak * min(1.0, (step + 1) / RL_WARMUP_STEPS)
