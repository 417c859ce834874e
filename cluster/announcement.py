"""What `make train` says first: what it will do, how long that takes, and what it needs.

Invariant: nothing is downloaded or started for it, so that what a hub's model needs is left to the run, which says it
before it starts anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub.errors import SafetensorsParsingError

from actors.policy.model import BUILTIN
from actors.policy.sizes import ModelSize
from envs import machine
from learner.config.load import load
from learner.config.schema import Config
from learner.run import node_memory
from learner.run.cards import gib

BUILTIN_SIZE = ModelSize(parameters=134_515_008, layers=30, width=576, inner=1536, keys=192, vocabulary=49152)
"""Of the model that a first run has yet to fetch."""
WORK = ("model.path", "tasks", "experts", "sft", "rl.steps", "rl.states", "rl.actions", "evaluation.attempts")
"""What the time of a run depends on most."""
BESIDE = 2
"""Checkpoints beside the `checkpoint.keep` newest: the best, and the one that is being written."""


def announced(cfg: Config, here: bool) -> Iterator[str]:
    """Lines; here: all of the run is on this machine."""
    experts, sft, rl = cfg.experts, cfg.sft, cfg.rl
    held_in, held_out = list(cfg.tasks.held_in), list(cfg.tasks.held_out)
    tried = f"{counted(len(held_in) * experts.trajectories, 'trajectory', 'trajectories')} of an expert"
    stages = [
        f"explore ({f'done by {experts.path}' if experts.path else tried})",
        f"fine-tune ({counted(sft.epochs, 'epoch')})",
        f"reinforce ({counted(rl.steps, 'step')} of {counted(rl.states * rl.actions, 'sample')})",
    ]
    yield f"training {cfg.model.path} on {', '.join(held_in)}: {', '.join(stages)}"
    yield f"evaluated before, between and after{', also on ' if held_out else ''}{', '.join(held_out)}"
    yield f"takes {duration(cfg, here)}; progress says how much of a stage is left"
    if here and (size := size_of(cfg.model.path)):
        memory, free = sum(node_memory.needed(cfg, size).values()), machine.free_mb() * 2**20
        made = 1 + math.ceil(rl.steps / cfg.checkpoint.every)
        one = size.checkpoint_bytes(cfg.model.dtype, cfg.learner.lora.rank)
        disk = min(made, cfg.checkpoint.keep + BESIDE) * one
        less = "" if free >= memory else ": it takes what needs less and more time, or says what is too much"
        yield f"needs {gib(memory)} of memory, and {gib(free)} are free{less}; and up to {gib(disk)} of disk"
    run_dir = Path(cfg.run.dir).resolve() / cfg.run.name
    yield f"results in {run_dir}; Ctrl-C ends it, run.resume=true goes on with it"
    if here:
        yield f"to follow it in a browser: .venv/bin/mlagent watch {run_dir}"


def duration(cfg: Config, here: bool) -> str:
    """As far as it was measured: for the quickstart's work on a machine of one's own."""
    usual = load(["config=quickstart"])
    if not here or cfg.run.resume or any(_of(cfg, name) != _of(usual, name) for name in WORK):
        return "a time that these settings decide"
    return "some minutes on a GPU" if cfg.learner.gpus else "about 20 minutes on 2 idle cores"


def size_of(path: str) -> ModelSize | None:
    """None where the model is not on this machine yet, or is none: the run says what is wrong with it."""
    if path == BUILTIN:
        return BUILTIN_SIZE
    try:
        return ModelSize.read(Path(path))
    except (OSError, LookupError, ValueError, SafetensorsParsingError):
        return None


def counted(number: int, one: str, more: str = "") -> str:
    return f"{number} {one if number == 1 else more or f'{one}s'}"


def _of(cfg: Config, name: str) -> object:
    for part in name.split("."):
        cfg = getattr(cfg, part)
    return cfg
