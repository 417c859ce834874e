"""What `make train` asks for by the hardware of this machine: whether it uses a GPU, in what precision a CPU computes,
and on how many of its cores."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from envs import machine
from learner.config.load import ConfigError, load
from learner.config.schema import Config
from learner.run import cards
from learner.run.cards import Card

DEVICES = ("auto", "cpu", "gpu")
SHARED = ("learner.gpus=0.5", "actors.gpus=0.5")
"""One card is enough: learner and engine take half of it each."""
AHEAD = "rl.max_staleness=2"
"""A learner this fast waits a quarter of its time with 1, a tenth with 2 (tests/bench/waiting.py)."""
CORES = ("learner.cpus=", "actors.cpus=", "actors.threads=")
"""Arguments by which cores are shared out."""

BFLOAT16 = {"x86_64": {"avx512bw", "avx512_bf16", "amx_bf16", "avx_ne_convert"}, "aarch64": {"bf16"}}
"""Features of a CPU, any of which makes bfloat16 as fast as float32. Without one PyTorch computes it number by number:
a linear layer of SmolLM2-135M takes seven times as long."""


def settings(arguments: Sequence[str], cfg: Config) -> tuple[list[str], str]:
    """(arguments to add, what to tell the user), by DEVICE (`auto`, `cpu` or `gpu`) and what the machine has; nothing
    where cards were chosen, by the arguments or by what they load.

    Raises:
        ConfigError: DEVICE names nothing that can be had here.
    """
    device = os.environ.get("DEVICE", "auto")
    if device not in DEVICES:
        raise ConfigError(f"DEVICE={device}: choose one of {', '.join(DEVICES)}")
    asked = any(argument.startswith(("learner.gpus=", "actors.gpus=")) for argument in arguments)
    if asked or cfg.size or cfg.gpus or cfg.learner.gpus or cfg.actors.gpus:
        return [], ""
    added, told = choose(arguments, device, cards.read(), serves_on_gpu()) if device != "cpu" else ([], "")
    if added:
        return added, told
    more = [cores(arguments, cfg, int(machine.cores()))]
    if not any(argument.startswith("model.dtype=") for argument in arguments):
        more.append(precision(platform.machine(), Path("/proc/cpuinfo").read_text()))
    return [one for added, _ in more for one in added], "\n".join(filter(None, [told, *(why for _, why in more)]))


def cores(arguments: Sequence[str], cfg: Config, there: int) -> tuple[list[str], str]:
    """(arguments to add, what to tell the user) of one learner rank and one actor, which have `there` cores.

    Nothing where cores were shared out otherwise than in the quickstart, or others need some.
    """
    usual = load(["config=quickstart"])
    chosen = any(argument.startswith(CORES) for argument in arguments) or any(
        OmegaConf.select(cfg, name.rstrip("=")) != OmegaConf.select(usual, name.rstrip("=")) for name in CORES
    )
    learner, actors = cfg.learner, cfg.actors
    alone = learner.ranks == actors.count == 1 and actors.max <= 1 and not cfg.sandbox.hosts
    if chosen or not alone or cfg.experts.kind == "llm" or there < learner.cpus + actors.cpus + 1:
        return [], ""
    added = [f"learner.cpus={there - actors.cpus:g}", f"actors.threads={there}"]
    return added, f"{there} cores are shared by learner and engine: {' '.join(added)}"


def precision(architecture: str, cpuinfo: str) -> tuple[list[str], str]:
    """(arguments to add, what to tell the user), by the CPU; cpuinfo: as Linux describes it."""
    if architecture not in BFLOAT16 or not BFLOAT16[architecture].isdisjoint(cpuinfo.split()):
        return [], ""
    return ["model.dtype=float32"], "this CPU is several times slower in bfloat16: model.dtype=float32"


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
    told = f"learner and actors share the GPU {name} (DEVICE=cpu, learner.gpus or actors.gpus change it)"
    return [*SHARED, *ahead], f"{told}: {' '.join([*SHARED, *ahead])}"


def serves_on_gpu() -> bool:
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
