"""Whether the GPUs' memory holds what a configuration puts on them: learner ranks, engines, or both on one card.

The arithmetic is on the safe side and says its parts. Invariant: nothing is allocated to find out.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.policy.arguments import FREE, GIB, EngineMemoryError, kv_cache_bytes, memory_share
from actors.policy.sizes import ModelSize
from learner.config.rules import share_a_card
from learner.config.schema import Config
from learner.figures.memory import engine_bytes, rank_bytes

ASK_SECONDS = 60.0


@dataclass(frozen=True)
class Card:
    """One GPU's memory, in bytes."""

    name: str
    total: int
    free: int


def read() -> list[Card]:
    """The GPUs of this machine; none where there is no driver."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=ASK_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.rsplit(",", 2) for line in done.stdout.splitlines() if line.strip()]
    return [Card(name.strip(), int(total) << 20, int(free) << 20) for name, total, free in rows]


def of_nodes(names: Sequence[str]) -> dict[str, list[Card]]:
    """By Ray node id; a node that does not answer has none."""
    here = {
        name: ray.remote(num_cpus=0)(read)
        .options(scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False))
        .remote()
        for name in names
    }
    done, _ = ray.wait(list(here.values()), num_returns=len(here), timeout=ASK_SECONDS) if here else ([], [])
    answered: dict[str, list[Card]] = {}
    for name, answer in here.items():
        try:
            answered[name] = ray.get(answer) if answer in done else []
        except RayError:
            answered[name] = []
    return answered


def misfits(cfg: Config, size: ModelSize, cards: Mapping[str, Sequence[Card]]) -> tuple[str, str] | None:
    """(what does not fit, what to do), of the smallest card there; None where all fits or there is no card to ask."""
    known = [card for of_node in cards.values() for card in of_node]
    if not known:
        return None
    smallest = min(known, key=lambda card: card.total)
    rank, usable = rank_bytes(cfg, size), smallest.total * (1 - FREE)
    in_turns = cfg.actors.colocate
    learner_share = usable * (1.0 if in_turns else min(1.0, cfg.learner.gpus))
    described = f"{smallest.name} has {gib(smallest.total)}"
    if cfg.learner.gpus and sum(rank.values()) > learner_share:
        parts = ", ".join(f"{name} {gib(amount)}" for name, amount in rank.items() if amount)
        given, last = f"learner.gpus={cfg.learner.gpus:g}", "a larger learner.gpus, or actors.colocate=true on one card"
        if in_turns:
            given, last = "actors.colocate=true", "or a smaller model.path"
        return (
            f"a learner rank needs {gib(sum(rank.values()))} ({parts}); {described}, of which "
            f"{given} gives {gib(learner_share)}",
            "learner.lora.rank=32, learner.gradient_checkpointing=true, a lower learner.row_tokens, more learner.ranks "
            f"with learner.zero_stage=3, learner.offload=optimizer, {last}",
        )
    if cfg.actors.gpus:
        of_engine = smallest.total * memory_share(cfg)
        try:
            if cfg.actors.gpus < 1:
                kv_cache_bytes(cfg, size, of_engine)
            elif engine_bytes(cfg, size) > of_engine:
                return (
                    f"an engine needs {gib(engine_bytes(cfg, size))} on each of its cards; {described}",
                    "more actors.gpus (whole cards: the model is split over them), or a lower model.context",
                )
        except EngineMemoryError as error:
            return f"{described}: {error}", "or use a smaller model"
    least = min(card.free for card in known)
    engine_share = smallest.total * memory_share(cfg) if cfg.actors.gpus else 0.0
    at_once = share_a_card(cfg) and not in_turns
    requested = learner_share + engine_share if at_once else max(learner_share, engine_share)
    if least < requested:
        return (
            f"a card has only {gib(least)} free of {gib(smallest.total)}, and {gib(requested)} are asked for",
            "end what else runs on it (nvidia-smi shows it), or lower actors.gpu_memory",
        )
    return None


def gib(size: float) -> str:
    return f"{size / GIB:.3g} GiB"
