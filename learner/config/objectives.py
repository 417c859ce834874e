"""What `rl.preset` stands for: the keys of the section `rl` that make the objective of a paper.

Invariant: every preset sets the same keys, so that one in the place of another leaves nothing of it.
"""

from __future__ import annotations

import math
from typing import Any

GRPO: dict[str, Any] = {
    "algorithm": "grpo",
    "objective": "mean",
    "entropic_beta": 0.0,
    "entropic_kl": math.log(2),
    "loss": "ppo",
    "ratio": "token",
    "clip": 0.2,
    "clip_high": 0.0,
    "dual_clip": 0.0,
    "kl": 0.04,
    "entropy": 0.0,
    "entropy_target": 0.0,
    "aggregation": "sequence",
    "correction": "none",
    "mask": "none",
    "minibatches": 1,
    "refill": 0,
}
"""DeepSeekMath, arXiv 2402.03300, eq. 3 and section 4.2."""

PRESETS: dict[str, dict[str, Any]] = {
    "grpo": GRPO,
    # arXiv 2503.20783, section 3.1: neither deviation nor length is divided by.
    "dr_grpo": GRPO | {"algorithm": "centred", "aggregation": "constant", "kl": 0.0},
    # arXiv 2402.14740, section 3.3: REINFORCE of whole responses, which a clip leaves alone where they are fresh.
    "rloo": GRPO | {"algorithm": "rloo", "aggregation": "sequence_sum", "kl": 0.0},
    # arXiv 2503.14476, section 3 (what is too long is for the reward to say).
    "dapo": GRPO | {"clip_high": 0.28, "aggregation": "token", "kl": 0.0, "refill": 3},
    # arXiv 2507.18071, eq. 5 and section 5.1.
    "gspo": GRPO | {"ratio": "sequence", "clip": 3e-4, "clip_high": 4e-4, "kl": 0.0, "minibatches": 4},
    # MiniMax-M1, arXiv 2506.13585, eq. 4, without a bound below; that above is of ScaleRL, arXiv 2510.13786.
    "cispo": GRPO | {"loss": "cispo", "clip": 1.0, "clip_high": 4.0, "aggregation": "token", "kl": 0.0},
    # arXiv 2510.18855: what engine and learner disagree on is weighted, and left out beyond 0.5 … 5.
    "icepop": GRPO | {"correction": "decoupled", "mask": "token", "kl": 0.0},
    # TTT-Discover, arXiv 2601.16175, section 3.2, of fresh responses as rloo is; its penalty of divergence is left to
    # rl.kl.
    "entropic": GRPO | {"algorithm": "centred", "objective": "entropic", "aggregation": "sequence_sum", "kl": 0.0},
}
