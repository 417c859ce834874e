"""Whether `make train` uses a GPU of this machine, and what it then asks for."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence

from learner.config.load import ConfigError
from learner.run import cards
from learner.run.cards import Card

DEVICES = ("auto", "cpu", "gpu")
SHARED = ("learner.gpus=0.5", "actors.gpus=0.5")
"""One card is enough: learner and engine take half of it each."""
AHEAD = "rl.max_staleness=2"
"""A learner this fast waits a quarter of its time with 1, a tenth with 2 (tests/bench/waiting.py)."""


def settings(arguments: Sequence[str]) -> tuple[list[str], str]:
    """(arguments to add, what to tell the user), by DEVICE (`auto`, `cpu` or `gpu`) and what the machine has.

    Raises:
        ConfigError: DEVICE names nothing that can be had here.
    """
    device = os.environ.get("DEVICE", "auto")
    if device not in DEVICES:
        raise ConfigError(f"DEVICE={device}: choose one of {', '.join(DEVICES)}")
    chosen = any(argument.startswith(("learner.gpus=", "actors.gpus=")) for argument in arguments)
    if chosen or device == "cpu":
        return [], ""
    return choose(arguments, device, cards.read(), serves_on_gpu())


def choose(arguments: Sequence[str], device: str, there: Sequence[Card], built_for_gpu: bool) -> tuple[list[str], str]:
    """As `settings`; built_for_gpu: the installed vLLM serves on GPUs."""
    if not there:
        if device == "gpu":
            raise ConfigError("DEVICE=gpu, but nvidia-smi shows no GPU on this machine")
        return [], ""
    name = f"{there[0].name} ({cards.gib(there[0].total)})"
    if not built_for_gpu:
        hint = "make train DEVICE=gpu installs the packages for it"
        if device == "gpu":
            raise ConfigError(f"{name} is here, but .venv has the packages for CPUs: make setup DEVICE=gpu")
        return [], f"{name} is not used: .venv has the packages for CPUs ({hint})"
    ahead = [] if any(argument.startswith("rl.max_staleness=") for argument in arguments) else [AHEAD]
    return [
        *SHARED,
        *ahead,
    ], f"learner and actors share the GPU {name} (DEVICE=cpu, learner.gpus or actors.gpus change it)"


def serves_on_gpu() -> bool:
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
