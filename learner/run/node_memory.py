"""What a run takes of its machine's memory, part by part, and what it can do with less.

The arithmetic is of runs on one machine; what processes take before they hold a model was measured, as PSS, and the
sum for a whole run was not. Invariant: what is lowered changes no result but by rounding, and is said.
"""

from __future__ import annotations

from collections.abc import Callable

from omegaconf import OmegaConf

from actors.policy.arguments import GIB
from actors.policy.sizes import ModelSize
from envs import machine
from envs.errors import UserError
from learner.config.schema import Config
from learner.figures import memory
from learner.run.cards import gib

IMPORTS = {"driver": 0.5e9, "Ray": 0.8e9, "learner": 0.45e9, "actor": 0.7e9, "engine": 0.6e9}
"""Bytes of a process of each part before it holds anything of a model; of all of Ray's own together."""
SANDBOX = 150 << 20
HOLES = 0.6
"""Of activations: what rows of other lengths left free and a rank has not given back (`learner.ranks.heap`)."""
WAITING = ("weights", "adapters", "gradients", "optimiser", "reference")
"""What a learner has on its card between two calls."""

SMALL = 1e8
"""Parts below it are not shown."""
LOWERED = (
    ("checkpoint.beside", False),
    ("sandbox.warm", 1),
    ("learner.row_tokens", None),
    ("learner.gradient_checkpointing", True),
)
"""What takes less memory for more time, the cheapest first; None: as many as model.context."""


class MemoryShort(UserError):
    """A machine that has too little memory free for a run; the message has what it needs, part by part."""


def needed(cfg: Config, size: ModelSize) -> dict[str, float]:
    """Bytes of host memory by part, at the run's highest."""
    learner, actors, weights = cfg.learner, cfg.actors, size.bytes(cfg.model.dtype)
    of_rank = memory.rank_bytes(cfg, size)
    of_rank["activations"] -= 2 * size.logit_bytes(memory.HEAD_TOKENS)  # on a CPU a few at a time
    of_rank["buffers"] = HOLES * of_rank["activations"]
    # The copy; when the model is written, less than a parameter's 12 bytes, it is no longer there.
    copied = cfg.checkpoint.beside and not learner.lora.rank and not actors.colocate
    rank = IMPORTS["learner"] + (0.0 if learner.gpus else sum(of_rank.values()))
    engine = IMPORTS["engine"] + (0.0 if actors.gpus else 2 * weights + actors.kv_cache_gb * GIB)
    kept = weights + sum(of_rank[part] for part in WAITING if part in of_rank)
    warm = cfg.sandbox.warm or max(1, int(cfg.sandbox.cpus or machine.cores()))
    return {
        "driver and Ray": IMPORTS["driver"] + IMPORTS["Ray"],
        "learner": learner.ranks * rank,
        "checkpoint written beside training": copied * 12.0 * size.parameters,
        "engines": actors.count * engine,
        "actors": actors.count * IMPORTS["actor"],
        "what waits for its turn": kept if actors.colocate else 0.0,
        "sandboxes": float(warm * SANDBOX),
        "weights in Ray's object store": 2.0 * weights if learner.transfer == "object_store" else 0.0,
    }


def fitted(cfg: Config, size: ModelSize, free: float, say: Callable[[str], None]) -> Config:
    """The configuration with what has to be lowered for `free` bytes of memory, each said.

    Raises:
        MemoryShort: that is too little all the same.
    """
    for name, value in LOWERED:
        need = sum(needed(cfg, size).values())
        if need <= free:
            break
        lower = cfg.copy()
        OmegaConf.set_readonly(lower, False)
        OmegaConf.update(lower, name, cfg.model.context if value is None else value)
        OmegaConf.set_readonly(lower, True)
        if sum(needed(lower, size).values()) < need:
            cfg = lower
            shown = str(OmegaConf.select(cfg, name)).lower()
            say(f"{name}={shown}, since the run would need {gib(need)} of memory, and {gib(free)} are free")
    parts = needed(cfg, size)
    if (need := sum(parts.values())) > free:
        shown = ", ".join(f"{name} {gib(amount)}" for name, amount in parts.items() if amount >= SMALL)
        raise MemoryShort(
            f"the run needs {gib(need)} of memory ({shown}), and {gib(free)} are free: close other programs, lower "
            "actors.kv_cache_gb, take a smaller model.path, or use a larger machine"
        )
    return cfg
