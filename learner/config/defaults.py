"""The configuration before anything is given, and what keys that are left open become, from the others: what a device
does well depends on the device.

Invariant: once settled no key is open, so that nobody else has to know which could be.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from learner.config.rules import share_a_card
from learner.config.schema import Config, PromptConfig

SEQUENCES = {"cpu": 64, "gpu": 256}
ROW_TOKENS = {"cpu": 2048, "gpu": 8192}
"""A GPU is kept busy by long rows; a CPU is busy anyway, and long rows take more memory."""


LONG_CONTEXT = 4096
SHORT_PROMPT = {"history": 3, "observation": 600, "descriptor": 0, "preview": 0}
"""What models of 135M parameters were tuned to, and have room for."""
LONG_PROMPT = {"history": 15, "observation": 2000, "descriptor": 4000, "preview": 3000}
"""A trajectory as long as the paper's, and what an engineer would look at first."""


def defaults() -> Any:
    """Every key as it is where nothing is given, open ones open. Each caller has one of its own: a `DictConfig` that
    holds values to the types of `Config`."""
    return copy.deepcopy(_built())


@functools.cache
def _built() -> Any:
    return OmegaConf.structured(Config)  # 50 ms, in which it reads the types of every class


def settle(cfg: Config) -> None:
    """Set `actors.sequences`, `learner.row_tokens`, `learner.transfer` and the section `prompt` where they are open;
    name a file in full."""
    learner, actors = cfg.learner, cfg.actors
    actors.sequences = actors.sequences or SEQUENCES["gpu" if actors.gpus else "cpu"]
    learner.row_tokens = learner.row_tokens or max(ROW_TOKENS["gpu" if learner.gpus else "cpu"], cfg.model.context)
    settle_prompt(cfg.prompt, cfg.model.context)
    if cfg.sandbox.requirements and not cfg.sandbox.requirements.isidentifier():  # a file: actors have other folders
        cfg.sandbox.requirements = str(Path(cfg.sandbox.requirements).absolute())
    if learner.transfer == "auto":
        learner.transfer = "ipc" if share_a_card(cfg) and not actors.colocate else "object_store"


def settle_prompt(prompt: PromptConfig, context: int) -> None:
    """Set what is open of a section `prompt`; context: tokens of prompt and response together."""
    long = context >= LONG_CONTEXT
    for name, size in (LONG_PROMPT if long else SHORT_PROMPT).items():
        if getattr(prompt, name) < 0:
            setattr(prompt, name, size)
    if prompt.actions == "auto":
        prompt.actions = "whole" if long else "thought"
