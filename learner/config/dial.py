"""One dial, `size=7b gpus=8`: the rest of what a model of that size on so many cards wants is chosen by arithmetic.

The first placement that fits is taken: all weights before adapters before offloading, half of the cards for the learner
before more, whole cards before turns, little sharding and no recomputation before more. Invariant: what is given by
name, in a config file or on the command line, stays, and the choice is made around it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from envs.errors import UserError
from learner.config.defaults import settle
from learner.config.rules import impossible

if TYPE_CHECKING:
    from actors.policy.sizes import ModelSize

KEYS = ("size", "gpus")
SIZES: dict[str, tuple[str, float, int, int, int, int, int]] = {
    "0.5b": ("Qwen/Qwen2.5-0.5B-Instruct", 0.494e9, 24, 896, 4864, 128, 151936),
    "0.6b": ("Qwen/Qwen3-0.6B", 0.596e9, 28, 1024, 3072, 1024, 151936),
    "1.5b": ("Qwen/Qwen2.5-1.5B-Instruct", 1.544e9, 28, 1536, 8960, 256, 151936),
    "1.7b": ("Qwen/Qwen3-1.7B", 1.721e9, 28, 2048, 6144, 1024, 151936),
    "3b": ("Qwen/Qwen2.5-3B-Instruct", 3.086e9, 36, 2048, 11008, 256, 151936),
    "4b": ("Qwen/Qwen3-4B", 4.022e9, 36, 2560, 9728, 1024, 151936),
    "7b": ("Qwen/Qwen2.5-7B-Instruct", 7.616e9, 28, 3584, 18944, 512, 152064),
    "8b": ("Qwen/Qwen3-8B", 8.191e9, 36, 4096, 12288, 1024, 151936),
    "14b": ("Qwen/Qwen2.5-14B-Instruct", 14.770e9, 48, 5120, 13824, 1024, 152064),
    "32b": ("Qwen/Qwen2.5-32B-Instruct", 32.764e9, 64, 5120, 27648, 1024, 152064),
}
"""By size: a model of it; its parameters, layers, width, inner width, keys of a token in a layer, and vocabulary."""
CARD_GIB = 80.0
LARGE = 1e9
"""Parameters from which on a model has room for long contexts, and learns at lower rates."""
ROOM = 0.9
"""Of what a card has for a part: the rest is for what arithmetic does not know."""
SEQUENCES = 4
"""Whole contexts that an engine has cache for at least."""
LORA_RANK = 32
LORA_RATE = 10.0
"""How much faster adapters learn."""


class DialError(UserError):
    """A dial that cannot be set so; the message says what would do."""


def chosen(cfg: DictConfig, given: Collection[str]) -> tuple[dict[str, Any], str]:
    """(the keys that the dial sets, with their values; a line that says so); given: keys that stay as they are.

    cfg: with all that is given. Raises DialError.
    """
    cards, gib = _cards(cfg.gpus)
    size, path = _size(cfg, given)
    adapters = cfg.learner.lora.rank if "learner.lora.rank" in given else None
    ranks = cfg.learner.ranks if "learner.ranks" in given else None
    for choice in _choices(size, path, cards, adapters, ranks):
        own = {name: value for name, value in choice.items() if name not in given}
        tried: Any = cfg.copy()
        for name, value in own.items():
            OmegaConf.update(tried, name, value)
        settle(tried)
        asked = tried.learner.ranks * tried.learner.gpus + tried.actors.count * tried.actors.gpus
        if asked <= cards and impossible(tried) is None and (taken := _taken(tried, size, gib)):
            said = ", ".join(f"{name}={_shown(value)}" for name, value in own.items())
            return own, f"size={cfg.size or path} gpus={cfg.gpus}, {gib:g} GiB each, chose {said}: {taken}"
    raise DialError(
        f"size={cfg.size or path} does not fit on gpus={cfg.gpus} ({gib:g} GiB each), whatever is trained or waits in "
        "host memory, with the keys that are given: take more cards, a smaller size or model.context, or leave keys out"
    )


def _cards(gpus: str) -> tuple[int, float]:
    """How many cards there are, and GiB of each."""
    count, _, each = gpus.partition("x")
    try:
        cards, gib = int(count), float(each or CARD_GIB)
    except ValueError:
        cards, gib = 0, 0.0
    if cards < 1 or not 1 <= gib <= 4096:
        raise DialError(
            f"gpus={gpus or '(nothing)'}: give how many cards there are, such as gpus=8, or gpus=2x24 for cards of "
            "24 GiB; size and gpus go together, and a CPU needs neither"
        )
    return cards, gib


def _size(cfg: DictConfig, given: Collection[str]) -> tuple[ModelSize, str]:
    """The shape of the model, and its path."""
    from actors.policy.sizes import ModelSize  # what this imports is not needed for --help

    path = cfg.model.path if "model.path" in given else ""
    if not cfg.size and path and (Path(path) / "config.json").is_file():
        return ModelSize.read(Path(path)), path
    by_path = {about[0]: size for size, about in SIZES.items()}
    size = cfg.size.lower() or by_path.get(path, "")
    if size not in SIZES:
        asked = f"size={cfg.size}" if cfg.size else f"gpus={cfg.gpus} needs size"
        raise DialError(f"{asked}: choose one of {', '.join(SIZES)}, or give model.path=FOLDER and no size")
    known, parameters, layers, width, inner, keys, vocabulary = SIZES[size]
    return ModelSize(int(parameters), layers, width, inner, keys, vocabulary), path or known


def _choices(
    size: ModelSize, path: str, cards: int, adapters: int | None, ranks: int | None
) -> Iterator[dict[str, Any]]:
    """What could be chosen, the best first; adapters: their rank, where it is given; ranks: so is this."""
    large = size.parameters >= LARGE
    contexts = ((8192, 1024), (4096, 512)) if large else ((4096, 512),)
    for (context, response), (lora, offload) in itertools.product(
        contexts, ((0, "none"), (LORA_RANK, "none"), (0, "optimizer"))
    ):
        faster = LORA_RATE if (lora if adapters is None else adapters) else 1.0
        common = {
            "model.path": path,
            "model.dtype": "bfloat16",
            "model.context": context,
            "model.response": response,
            "sft.batch": 64 if large else 16,
            "sft.learning_rate": (2e-5 if large else 5e-5) * faster,
            "rl.states": 32 if cards >= 16 else 16,
            "rl.learning_rate": (1e-6 if large else 2e-6) * faster,
        }
        for placed, checkpointing in itertools.product(_placements(cards, ranks), (False, True)):
            for stage in (1, 2, 3) if placed["learner.ranks"] > 1 else (1,):
                yield common | placed | {
                    "learner.zero_stage": stage,
                    "learner.gradient_checkpointing": checkpointing,
                    "learner.lora.rank": lora,
                    "learner.offload": offload,
                }  # fmt: skip


def _placements(cards: int, given: int | None) -> Iterator[dict[str, Any]]:
    if cards == 1:
        shared = {"learner.ranks": 1, "learner.gpus": 0.5, "actors.count": 1, "actors.gpus": 0.5}
        yield shared | {"actors.colocate": False}
        yield shared | {"actors.colocate": True}
    for of_engine in (1, 2, 4, 8):
        for ranks in [given] if given else range(cards // 2, cards):
            engines, left = divmod(cards - ranks, of_engine)
            if ranks and engines and not left:
                yield {
                    "learner.ranks": ranks, "learner.gpus": 1.0, "actors.count": engines,
                    "actors.gpus": float(of_engine), "actors.colocate": False,
                }  # fmt: skip


def _taken(cfg: Any, size: ModelSize, gib: float) -> str:
    """What rank and engine take of a card, in words; empty where it does not fit."""
    from actors.policy.arguments import FREE, GIB, EngineMemoryError, kv_cache_bytes, memory_share
    from learner.figures.memory import engine_bytes, rank_bytes

    turns, card = cfg.actors.colocate, gib * GIB
    of_rank = card * (1 - FREE) * (1.0 if turns else min(1.0, cfg.learner.gpus))
    of_engine = card * memory_share(cfg)
    rank = sum(rank_bytes(cfg, size).values()) if cfg.learner.gpus else 0.0
    cache = SEQUENCES * size.cached_bytes(cfg.model.context, cfg.model.dtype)
    if 0 < cfg.actors.gpus < 1:
        try:
            engine = of_engine - kv_cache_bytes(cfg, size, of_engine) + cache
        except EngineMemoryError:
            return ""
    else:
        engine = engine_bytes(cfg, size) + cache / max(1, cfg.actors.gpus) if cfg.actors.gpus else 0.0
    if rank > of_rank * ROOM or engine > of_engine:
        return ""
    return (
        f"a learner rank takes {rank / GIB:.3g} of its {of_rank / GIB:.3g} GiB, an engine with cache for {SEQUENCES} "
        f"contexts {engine / GIB:.3g} of {of_engine / GIB:.3g}" + (", in turns" if turns else "")
    )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
