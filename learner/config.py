"""The configuration: typed, validated, and free of torch, vllm, deepspeed and ray so that `--help` is instant.

Precedence: dataclass defaults < `config=NAME|PATH` (a YAML in learner/configs/ or anywhere) < `key=value` arguments.
Invariants: an unknown key, a wrong type or an impossible combination raises `ConfigError`, naming the key,
before anything is started.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONFIGS = Path(__file__).parent / "configs"


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the key and what to do."""


def key(default: Any, help: str, choices: Sequence[str] = ()) -> Any:
    """A config field with its line of help; `choices` closes the set of values."""
    metadata = {"help": help, "choices": tuple(choices)}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def section(kind: type, help: str) -> Any:
    return dataclasses.field(default_factory=kind, metadata={"help": help})


@dataclass
class RunConfig:
    name: str = key("run", "Name of the run; its results go to <run.dir>/<run.name>.")
    dir: str = key("runs", "Folder of all runs; absolute (and shared by the nodes) when submitted as a Ray job.")
    seed: int = key(0, "Seed of state draws, sampling, experts and initialisation.")
    resume: bool = key(False, "Continue an interrupted run of this name from its last checkpoint.")


@dataclass
class ModelConfig:
    path: str = key("builtin:smollm2-135m", "Model folder, hub id, or builtin:smollm2-135m (needs no model hub).")
    dtype: str = key("bfloat16", "Compute type of engine and learner.", ["bfloat16", "float32"])
    context: int = key(1536, "Tokens of prompt and response together.")
    response: int = key(128, "Most tokens of one response.")


@dataclass
class TasksConfig:
    held_in: list[str] = key(["iris", "wine", "diabetes", "digits"], "Tasks trained on: names or folders.")
    held_out: list[str] = key(["breast_cancer", "linnerud"], "Tasks only evaluated: names or folders.")


@dataclass
class SandboxConfig:
    backend: str = key("auto", "Where experiments run; auto takes docker where an engine answers.", ["auto", "docker", "process"])
    slots: int = key(2, "Experiments at once on one actor.")
    image: str = key("", "Docker image of the experiments; empty builds the project's own.")


@dataclass
class RewardConfig:
    version: str = key("v1", "Published reward: v1 (2025, sigmoid) or v2 (2026, linear with -1 for errors).", ["v1", "v2"])
    steepness: float = key(100.0, "v1: factor on gain/range inside the sigmoid (100 in the paper; lower saturates later).")


@dataclass
class ExpertConfig:
    trajectories: int = key(12, "Trajectories of the built-in expert per held-in task.")
    steps: int = key(5, "Actions per trajectory.")
    mistakes: float = key(0.1, "Share of actions that are deliberately broken, so that error states enter the pool.")


@dataclass
class SftConfig:
    epochs: int = key(1, "Passes over the selected expert actions; 0 skips fine-tuning.")
    learning_rate: float = key(1e-4, "Peak learning rate (linear warm-up, cosine decay).")
    batch: int = key(8, "Examples per optimiser step.")


@dataclass
class RlConfig:
    steps: int = key(10, "Learner steps.")
    states: int = key(4, "States (groups) per learner step.")
    actions: int = key(16, "Actions K sampled per state; their mean reward is the baseline (GRPO).")
    learning_rate: float = key(2e-5, "Learning rate (constant after linear warm-up).")
    clip: float = key(0.2, "PPO clip range of the ratio to the behaviour policy.")
    max_staleness: int = key(1, "Most versions between sampling and training; 0 is synchronous.")
    temperature: float = key(1.0, "Sampling temperature of training and evaluation.")
    gap_warn: float = key(0.05, "Mean |log-prob gap| between engine and learner above which the run warns.")
    gap_stop: float = key(0.5, "Mean |log-prob gap| above which the run stops.")


@dataclass
class LearnerConfig:
    ranks: int = key(1, "Learner processes (one per GPU, or CPU ranks).")
    gpus: float = key(0.0, "GPUs per rank; 0 trains on the CPU.")
    cpus: float = key(1.0, "CPU cores per rank.")
    zero_stage: int = key(0, "DeepSpeed ZeRO stage: 0, 1, 2 or 3.")
    row_tokens: int = key(2048, "Token budget of one packed row (a prompt with all its responses must fit).")
    grad_clip: float = key(1.0, "Largest gradient norm.")


@dataclass
class ActorsConfig:
    count: int = key(1, "Actors, each one vLLM engine with its own sandboxes.")
    gpus: float = key(0.0, "GPUs per actor; 0 serves on the CPU.")
    cpus: float = key(1.0, "CPU cores per actor.")
    sequences: int = key(64, "Sequences an engine decodes at once.")
    kv_cache_gb: float = key(1.0, "GiB of KV cache of an engine on the CPU.")
    deadline: float = key(300.0, "Seconds a request to an actor may take before the actor is called dead.")


@dataclass
class EvalConfig:
    attempts: int = key(16, "Attempts per task and stage, from the initial state.")
    seed: int = key(1234, "Seed of attempt i is seed + i at every stage.")


@dataclass
class CheckpointConfig:
    every: int = key(5, "Learner steps between checkpoints.")
    keep: int = key(2, "Checkpoints kept; older ones are deleted.")


@dataclass
class Config:
    run: RunConfig = section(RunConfig, "Where results go.")
    model: ModelConfig = section(ModelConfig, "The policy.")
    tasks: TasksConfig = section(TasksConfig, "What is learned and what is only evaluated.")
    sandbox: SandboxConfig = section(SandboxConfig, "Where experiments run.")
    reward: RewardConfig = section(RewardConfig, "What an outcome is worth.")
    experts: ExpertConfig = section(ExpertConfig, "The built-in expert of the warm start.")
    sft: SftConfig = section(SftConfig, "Exploration-enriched fine-tuning.")
    rl: RlConfig = section(RlConfig, "Step-wise reinforcement learning.")
    learner: LearnerConfig = section(LearnerConfig, "The DeepSpeed learner.")
    actors: ActorsConfig = section(ActorsConfig, "The vLLM actors.")
    evaluation: EvalConfig = section(EvalConfig, "Evaluation of each stage.")
    checkpoint: CheckpointConfig = section(CheckpointConfig, "What a restart continues from.")


def fields() -> Iterator[tuple[str, dataclasses.Field]]:
    """Every `section.key` with its dataclass field."""
    for part in dataclasses.fields(Config):
        for item in dataclasses.fields(part.default_factory):
            yield f"{part.name}.{item.name}", item
