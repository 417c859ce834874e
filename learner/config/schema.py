"""The configuration: every key with its type, default and line of help, section by section.

It is free of torch, vllm, deepspeed and ray, and so is all that `learner.config.load` needs to read one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

CONFIGS = Path(__file__).parent / "presets"
LARGEST = 2**31 - 1
"""Of any number: counts, bytes and seconds of a run are far below it, and libraries begin to overflow above."""


def key(
    default: Any,
    help: str,
    choices: Sequence[str] = (),
    positive: bool = False,
    least: float = 0,
    maximum: float = LARGEST,
    socket: bool = False,
) -> Any:
    """A config field with its line of help; `choices` closes the set of values, but for an import path (`socket`).

    A number is at least `least`, or above 0 where it is `positive`, and at most `maximum`.
    """
    metadata = {
        "help": help, "choices": tuple(choices), "positive": positive, "least": least, "maximum": maximum,
        "socket": socket,
    }  # fmt: skip
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def section(kind: type, help: str) -> Any:
    return dataclasses.field(default_factory=kind, metadata={"help": help})


@dataclass
class RunConfig:
    name: str = key("run", "Name of the run; its results go to <run.dir>/<run.name>.")
    dir: str = key("runs", "Folder of all runs; absolute (and shared by the nodes) when submitted as a Ray job.")
    mode: str = key(
        "ray",
        "Learner and actors as processes of a Ray cluster, or all in this process, for a debugger.",
        ["ray", "serial"],
    )
    seed: int = key(0, "Seed of state draws, sampling, experts and initialisation.")
    resume: bool = key(False, "Continue the run of this name from its last checkpoint, as it was configured.")
    track: list[str] = key([], "Report steps to wandb, mlflow or trackio as well; TensorBoard files are always there.")


@dataclass
class ModelConfig:
    path: str = key("builtin:smollm2-135m", "Model folder, hub id, or builtin:smollm2-135m (needs no model hub).")
    dtype: str = key("bfloat16", "Compute type of engine and learner.", ["bfloat16", "float32"])
    context: int = key(1536, "Tokens of prompt and response together.", positive=True)
    response: int = key(128, "Most tokens of one response, with its thinking.", positive=True)
    thinking: list[str] = key(
        [],
        "What begins the model's thinking and what ends it, as [<think>,</think>]; empty: as its template names them.",
    )
    template_arguments: dict[str, Any] = key(
        {}, "Arguments of the chat template, each model.template_arguments.NAME=VALUE, as enable_thinking=false."
    )


@dataclass
class PromptConfig:
    history: int = key(
        -1, "Past actions that are shown, the newest; -1: 3 below model.context=4096, else 15.", least=-1
    )
    actions: str = key(
        "auto",
        "How actions are told: past ones by their thought, or whole, as they were written, with all that one may be; "
        "auto: whole from model.context=4096 on.",
        ["auto", "thought", "whole"],
    )
    observation: int = key(
        -1, "Characters that are kept of what a run prints, its end; -1: 600 below model.context=4096, else 2000.",
        least=-1,
    )  # fmt: skip
    descriptor: int = key(
        -1, "Characters of task_descriptor.txt that are shown; -1: 0 below model.context=4096, else 4000.", least=-1
    )
    preview: int = key(
        -1,
        "Characters of a preview of the task's data (files, columns, types, rows, values); -1: 0 below "
        "model.context=4096, else 3000.",
        least=-1,
    )


@dataclass
class LimitsConfig:
    seconds: float = key(0.0, "Wall-clock seconds of an experiment; 0: as its task states.")
    cpus: float = key(0.0, "Its CPU cores; 0: as its task states.")
    memory_mb: int = key(0, "MiB of its memory; 0: as its task states.")
    gpus: int = key(-1, "Whole GPUs that it has for itself (sandbox.gpus); -1: as its task states.", least=-1)
    disk_mb: int = key(0, "MiB of the files that it writes; 0: as its task states.")
    processes: int = key(0, "Its processes and threads; 0: as its task states.")


@dataclass
class TasksConfig:
    held_in: list[str] = key(["wine", "wine_alcohol", "diabetes", "digits"], "Tasks trained on: names or folders.")
    held_out: list[str] = key(["breast_cancer", "iris_petal"], "Tasks only evaluated: names or folders.")
    limits: LimitsConfig = section(LimitsConfig, "What an experiment may use, of every task.")


@dataclass
class SandboxConfig:
    hosts: int = key(0, "Ray actors that run the experiments of all actors, on nodes of their own; 0: each its own.")
    node: str = key("", "Ray label KEY=VALUE of the nodes that sandbox.hosts run on; empty: any node.")
    backend: str = key(
        "auto",
        "Where experiments run: auto takes the strongest that works; simulated answers from recorded ones.",
        ["auto", "docker", "gvisor", "process", "simulated"],
    )
    cpus: float = key(
        0.0, "Cores that the experiments of one actor (or host) share; 0: the node's, split over its actors."
    )
    memory_gb: float = key(0.0, "GiB that they share; 0: half of the node's, split over its actors.")
    gpus: list[int] = key(
        [], "Ids of each node's GPUs for experiments, not for Ray; one named twice serves two at once."
    )
    warm: int = key(0, "Most idle sandboxes of one actor (150 MiB each); 0: as many as its experiments at once.")
    patience: float = key(120.0, "Seconds to wait for a container engine that has worked before and does not answer.")
    image: str = key("", "Docker image of the experiments (docs/sandboxes.md); empty builds the project's own.")
    packages: str = key(
        "base", "What experiments find: numpy, pandas, scikit-learn; torch: PyTorch too.", ["base", "torch"]
    )
    requirements: str = key(
        "", "Packages instead of these: a requirements or lock file, installed once a machine, or `paper`, a ready set."
    )
    cache: bool = key(True, "Run identical experiments once.")
    cache_path: str = key("", "Folder or fsspec URL of the experiment cache; empty: experiments/ in the run's folder.")
    snapshots: str = key(
        "", "Folder or fsspec URL of the states' workspaces, of this run alone; empty: snapshots/ in its folder."
    )
    recorded: str = key("", "simulated: an experiment cache to answer from, such as runs/NAME/experiments.")
    speed: float = key(1.0, "simulated: seconds waited per second of the recorded experiment.")


@dataclass
class EditorConfig:
    endpoint: str = key(
        "", "OpenAI-compatible URL of the model behind actions like `Edit Script (AI)`; empty: the policy itself."
    )
    model: str = key("", "Name of the model at editor.endpoint.")
    key_variable: str = key("OPENAI_API_KEY", "Environment variable of the actors that holds the endpoint's key.")


@dataclass
class RewardConfig:
    version: str = key(
        "v1",
        "Published reward: v1 (2025, sigmoid) or v2 (2026, linear with -1 for errors).",
        ["v1", "v2"],
        socket=True,
    )
    steepness: float = key(
        100.0, "v1: factor on gain/range inside the sigmoid (100 in the paper; lower saturates later).", positive=True
    )
    over: str = key(
        "last",
        "What an edit has to be better than: the last score, or the best so far, and then less is worth no edit.",
        ["last", "best"],
    )
    milestones: float = key(
        0.0, "Share of the way from failure to neutral that a failing script earns by how far it got.", maximum=1
    )
    time: float = key(0.0, "Taken off for an experiment that takes its whole time limit (a share for less).")
    memory: float = key(0.0, "Taken off for an experiment that takes its whole memory limit (a share for less).")
    truncated: str = key(
        "mask",
        "Responses that model.response cuts: left out of training (mask, DAPO's overlong filtering, arXiv 2503.14476), "
        "worth a failed action (failure), or that less DAPO's soft punishment of length (soft).",
        ["mask", "failure", "soft"],
    )


@dataclass
class AuditConfig:
    mask: bool = key(
        False, "Leave suspicious actions out of training, as infrastructure failures; they are reported all the same."
    )


@dataclass
class ExpertConfig:
    kind: str = key(
        "builtin", "Who explores: a library of operators on scripts, or a language model.", ["builtin", "llm"]
    )
    endpoint: str = key("", "llm: OpenAI-compatible URL; empty: actors of our own serve experts.model.")
    model: str = key("", "llm: name of the model at experts.endpoint; without one, a model folder or hub id.")
    key_variable: str = key("OPENAI_API_KEY", "Environment variable of the actors that holds the endpoint's key.")
    temperature: float = key(1.0, "llm: sampling temperature.", positive=True)
    response: int = key(1024, "llm: most tokens of one answer.", positive=True)
    context: int = key(8192, "llm: most tokens of one question and its answer.", positive=True)
    template_arguments: dict[str, Any] = key(
        {}, "llm: as those of the model; an endpoint gets them as chat_template_kwargs, which vLLM's and SGLang's take."
    )
    candidates: int = key(100, "Ideas of a task from which the pool is chosen.", positive=True)
    ideas: int = key(10, "Ideas in the pool of a task: those that differ most.", positive=True)
    embeddings: str = key(
        "tfidf", "How ideas are compared: tfidf, a sentence-transformers model, or an endpoint's URL."
    )
    embedding_model: str = key("", "Name of the model at the endpoint of experts.embeddings.")
    trajectories: int = key(12, "Trajectories per held-in task.", positive=True)
    steps: int = key(5, "Actions per trajectory.", positive=True)
    mistakes: float = key(
        0.1, "builtin: share of actions that are broken on purpose, so that error states enter the pool.", maximum=1
    )
    states: int = key(100, "Most states of a task in the state pool, of all kinds equally.", positive=True)
    path: str = key("", "Folder of a run whose trajectories are used; empty: the expert makes new ones.")


@dataclass
class SftConfig:
    epochs: int = key(1, "Passes over the selected expert actions; 0 skips fine-tuning.")
    learning_rate: float = key(1e-4, "Peak learning rate (linear warm-up, cosine decay).", positive=True)
    batch: int = key(8, "Examples per optimiser step.", positive=True)
    best: float = key(1.0, "Share of the improvements of a task that may be imitated, the largest first.", maximum=1)
    others: float = key(
        0.25,
        "Largest share of examples that edit nothing and were useful: what was read or run before an improvement, an "
        "Undo that gave back a better script, a Final Answer at the best.",
        maximum=0.9,
    )
    examples: int = key(0, "Most examples of a task, those that differ most; 0: all that are worth imitating.")
    held_out: float = key(0.05, "Share of the examples that is kept back to measure the loss.", maximum=0.5)
    checkpoint_every: int = key(100, "Optimiser steps after which an interrupted fine-tuning can go on.", positive=True)


@dataclass
class RlConfig:
    steps: int = key(10, "Learner steps.")
    states: int = key(4, "States (groups) per learner step.", positive=True)
    actions: int = key(16, "Actions K sampled per state.", positive=True)
    preset: str = key(
        "none",
        "Sets the keys of the objective to those of a paper, but for those given; config.yaml has what they are.",
        ["none", "grpo", "dr_grpo", "rloo", "dapo", "gspo", "cispo", "icepop", "entropic"],
    )
    algorithm: str = key(
        "grpo",
        "Baseline of a reward: its group's mean (centred), and over its deviation (grpo); the others' mean (rloo); "
        "V(s) (ppo).",
        ["grpo", "centred", "rloo", "ppo"],
        socket=True,
    )
    objective: str = key(
        "mean",
        "What is maximised: the expected reward of a sample, or of the best of several, or what weighs high rewards "
        "more (entropic).",
        ["mean", "best_of", "entropic"],
    )
    best_of: int = key(4, "best_of: how many samples the best is of; below rl.actions.", positive=True)
    best_of_steps: int = key(0, "best_of: learner steps over which the objective goes there from the mean; 0: at once.")
    entropic_beta: float = key(
        0.0, "entropic: factor on rewards in the exponent, near 0: the mean; 0: as entropic_kl has it, in each group."
    )
    entropic_kl: float = key(
        0.693, "entropic: nats by which the weights of a group may differ from equal ones, at entropic_beta=0.",
        positive=True,
    )  # fmt: skip
    refill: int = key(
        0,
        "Groups that teach nothing new are replaced by others, since all earned alike or all was tried and trained on "
        "from their state before: so many times rl.states of a learner step at most.",
    )
    episode_steps: int = key(
        1,
        "Actions of a sample: one from a state of the pool, or a whole episode whose actions share its reward.",
        positive=True,
    )
    discount: float = key(
        0.0,
        "Of single steps: what the reached state is worth counts so much beside the reward, by what was earned from "
        "states of the pool; 0: nothing.",
        maximum=0.99,
    )
    epochs: int = key(1, "Passes over each batch of groups.", positive=True)
    minibatches: int = key(1, "Optimiser steps of a pass: parts of a batch, of whole groups.", positive=True)
    learning_rate: float = key(2e-5, "Learning rate (constant after linear warm-up).", positive=True)
    value_learning_rate: float = key(
        0.05, "ppo: about how far V(s) moves in one of its own optimiser steps, whatever the model.", positive=True
    )
    value_epochs: int = key(10, "ppo: optimiser steps of V(s) on each mini-batch, after the first pass.", positive=True)
    loss: str = key(
        "ppo",
        "What a clip does to a token whose ratio is outside: it ends its gradient (ppo), or bounds its weight (cispo).",
        ["ppo", "cispo"],
    )
    ratio: str = key(
        "token", "Whose ratio is clipped: each token's, or its response's mean (GSPO).", ["token", "sequence"]
    )
    clip: float = key(0.2, "Clip range of the ratio to the old policy, below 1; 1 or more: none there.", positive=True)
    clip_high: float = key(0.0, "Clip range above 1; 0: as below.")
    dual_clip: float = key(0.0, "Bound of the ratio where the advantage is negative, above 1; 0: none.")
    correction: str = key(
        "none",
        "The policy that sampled, staler or rounded otherwise, is the old one (none), or tokens are weighted by the "
        "ratio of the two: decoupled, or truncated importance sampling.",
        ["none", "decoupled", "truncated"],
    )
    correction_cap: float = key(2.0, "truncated: largest weight.", positive=True)
    correction_level: str = key("token", "Whose ratio the weight is.", ["token", "sequence"])
    mask: str = key(
        "none",
        "Leave out where the ratio of the old policy to the one that sampled is far from 1: of a token (IcePop), of a "
        "whole response, or of its mean.",
        ["none", "token", "sequence", "geometric"],
    )
    mask_low: float = key(0.5, "mask: smallest ratio that is kept.")
    mask_high: float = key(5.0, "mask: largest ratio that is kept.", positive=True)
    kl: float = key(0.0, "Weight of the divergence from the fine-tuned policy; above 0 each rank holds a copy of it.")
    entropy: float = key(0.0, "Weight of the entropy bonus.")
    entropy_target: float = key(
        0.0, "Mean entropy of a token, in nats, to which the weight is steered; 0: it is fixed."
    )
    entropy_step: float = key(0.005, "What a learner step below the target adds to the weight, or takes off above.")
    aggregation: str = key(
        "token",
        "Every token of a batch weighs the same, or every response; or its tokens are added up, over their number "
        "(sequence_sum) or over model.response too (constant).",
        ["token", "sequence", "sequence_sum", "constant"],
    )
    sampling: str = key(
        "balanced",
        "Draw states uniformly, every task equally often, or by how much their rewards still vary.",
        ["uniform", "balanced", "progress"],
    )
    curriculum: float = key(
        0.0, "Share of the steps that begin with short experiments: tasks.held_in such as NAME@0.1.", maximum=1
    )
    grow_pool: bool = key(True, "Add the states that improved a script to the state pool.")
    pool_states: int = key(
        50,
        "grow_pool: most such states of a task; beyond, those whose rewards vary least leave the pool.",
        positive=True,
    )
    max_staleness: int = key(2, "Most versions between sampling and training; 0 is synchronous and reproducible.")
    temperature: float = key(1.0, "Sampling temperature of training and evaluation.", positive=True)
    gap_warn: float = key(
        0.05, "Mean |log-prob gap| between engine and learner above which the run warns.", positive=True
    )
    gap_stop: float = key(0.5, "Mean |log-prob gap| above which the run stops.", positive=True)


@dataclass
class LoraConfig:
    rank: int = key(0, "Width of the adapters that are trained instead of the weights (LoRA); 0: all weights are.")
    alpha: float = key(32.0, "What the adapters add to a weight is scaled by alpha / rank.", positive=True)
    targets: list[str] = key(
        [], "Names of the linear layers with adapters, such as [q_proj,v_proj]; empty: all but the output head."
    )


@dataclass
class LearnerConfig:
    ranks: int = key(1, "Learner processes (one per GPU, or CPU ranks).", positive=True)
    gpus: float = key(0.0, "GPUs per rank: 1, or the share of a card that it may use; 0 trains on the CPU.", maximum=1)
    cpus: float = key(1.0, "CPU cores per rank; a share of one rounds up to a thread.")
    node: str = key("", "Ray label KEY=VALUE of the nodes that ranks run on; empty: any node.")
    zero_stage: int = key(1, "DeepSpeed ZeRO stage: 0, 1, 2 or 3.", maximum=3)
    offload: str = key(
        "none",
        "What waits in the memory of the host: nothing, the optimiser's state, or all.",
        ["none", "optimizer", "all"],
    )
    lora: LoraConfig = section(LoraConfig, "Adapters instead of full training.")
    gradient_checkpointing: bool = key(False, "Recompute activations in the backward pass: less memory, more time.")
    row_tokens: int = key(
        0,
        "Most tokens of a packed row, at least model.context; a larger group takes several, which repeat its prompt. "
        "0: 2048 on the CPU, 8192 on a GPU, or model.context if that is more.",
    )
    grad_clip: float = key(1.0, "Largest gradient norm.", positive=True)
    transfer: str = key(
        "auto",
        "How weights travel: through Ray's object store, broadcast from GPU to GPU (nccl), or not at all, between "
        "processes of one card (ipc); auto: ipc where learner and actors share a card, else object_store (nccl has not "
        "run on several cards yet).",
        ["auto", "object_store", "nccl", "ipc"],
    )
    full_every: int = key(
        1, "Publish full weights every so many versions, lossless differences between; 1: always full.", positive=True
    )
    check_every: int = key(
        10, "Check the weights of every so many versions, packed, received and served, by checksums; 0: never."
    )
    restarts: int = key(3, "Times that the ranks may die and go on from the last checkpoint.")
    deadline: float = key(1800.0, "Seconds that all ranks may take for one call.", positive=True)


@dataclass
class ActorsConfig:
    count: int = key(1, "Actors, each one vLLM engine with its own sandboxes.", positive=True)
    gpus: float = key(0.0, "GPUs per actor: whole cards, or the share of one; 0 serves on the CPU.")
    gpu_memory: float = key(
        0.0,
        "Share of its cards' memory that an engine may use; 0: nine tenths of its share of a card, in turns of all.",
        maximum=1,
    )
    colocate: bool = key(
        False, "The engine and the learner that share a card have all of it in turns; the other waits in host memory."
    )
    cpus: float = key(1.0, "CPU cores per actor.")
    threads: int = key(
        0,
        "Threads of an engine on the CPU, at least as many as actors.cpus: more also take the cores that a learner on "
        "the same machine leaves idle while it waits.",
    )
    node: str = key("", "Ray label KEY=VALUE of the nodes that actors run on; empty: any node.")
    sequences: int = key(0, "Sequences an engine decodes at once; 0: 64 on the CPU, 256 on a GPU.")
    kv_cache_gb: float = key(1.0, "GiB of KV cache of an engine on the CPU.", positive=True)
    min: int = key(1, "Fewest actors that are left when fewer are needed, or asked for.", positive=True)
    max: int = key(0, "Most actors; above 0 their number follows the demand, 0: it stays actors.count.")
    replacements: int = key(8, "Actors that may fail and be replaced before the run ends with an error.")
    heartbeat: float = key(60.0, "Seconds without a sign of life after which an actor is replaced.", positive=True)
    deadline: float = key(
        300.0, "Seconds a request to an actor may take before the actor is called dead.", positive=True
    )


@dataclass
class EvalConfig:
    attempts: int = key(16, "Attempts per task and stage, or per state or task and agent.", positive=True)
    seed: int = key(1234, "Seed of attempt i is seed + i at every stage and for every agent.")
    every: int = key(
        0,
        "Learner steps between evaluations on held-out tasks, beside training; they choose checkpoints/best. 0: none.",
    )
    patience: int = key(0, "Such evaluations in a row without a better reward after which RL ends; 0: it never does.")
    states: int = key(4, "evaluate.py: fixed states per task from which single steps are tried; 0: none.")
    steps: int = key(15, "evaluate.py: most actions of a whole episode (15 in the paper); 0: no episodes.")
    seconds: float = key(
        0.0,
        "evaluate.py: seconds of writing and running after which an episode begins no further action (1800 in the "
        "paper); 0: no bound.",
    )
    baselines: list[str] = key(
        ["random", "expert", "greedy"],
        "evaluate.py: a random idea each time, the built-in expert, its ideas in an AIDE-style greedy search.",
        ["random", "expert", "greedy"],
    )
    folder: str = key("runs/evaluation", "evaluate.py: folder of its results and cache, shared by the nodes.")


@dataclass
class CheckpointConfig:
    every: int = key(5, "Learner steps between checkpoints.", positive=True)
    keep: int = key(
        2, "Newest checkpoints kept, beside the one whose steps had the best reward (checkpoints/best).", positive=True
    )
    beside: bool = key(True, "Write while training goes on, from a copy in host memory (12 bytes per parameter).")


@dataclass
class ReportConfig:
    gpu_hour: float = key(2.5, "Price of a GPU for an hour.")
    cpu_hour: float = key(0.05, "Price of a CPU core for an hour.")
    million_tokens: float = key(0.0, "Price of a million generated tokens, on top of the machines' time.")
    currency: str = key("USD", "Currency of these prices.")


@dataclass
class Config:
    size: str = key("", "Size of the model, such as 7b: with gpus, chooses what is not given (docs/gpus.md).")
    gpus: str = key("", "Its cards, such as 8, or 2x24 for cards of 24 GiB (80 otherwise).")
    run: RunConfig = section(RunConfig, "Where results go.")
    model: ModelConfig = section(ModelConfig, "The policy.")
    prompt: PromptConfig = section(PromptConfig, "What the policy is told, as far as model.context has room for it.")
    tasks: TasksConfig = section(TasksConfig, "What is learned and what is only evaluated.")
    sandbox: SandboxConfig = section(SandboxConfig, "Where experiments run.")
    editor: EditorConfig = section(EditorConfig, "The model that carries out MLAgentBench's `(AI)` actions.")
    reward: RewardConfig = section(RewardConfig, "What an outcome is worth.")
    audit: AuditConfig = section(AuditConfig, "What is done about suspicious actions (docs/sandboxes.md).")
    experts: ExpertConfig = section(ExpertConfig, "The expert whose trajectories are the warm start.")
    sft: SftConfig = section(SftConfig, "Exploration-enriched fine-tuning.")
    rl: RlConfig = section(RlConfig, "Step-wise reinforcement learning.")
    learner: LearnerConfig = section(LearnerConfig, "The DeepSpeed learner.")
    actors: ActorsConfig = section(ActorsConfig, "The vLLM actors.")
    evaluation: EvalConfig = section(EvalConfig, "Evaluation of each stage.")
    checkpoint: CheckpointConfig = section(CheckpointConfig, "What a restart continues from.")
    report: ReportConfig = section(ReportConfig, "Prices in the report, also of `python learner/report.py RUN`.")


@functools.cache
def fields() -> tuple[tuple[str, dataclasses.Field, type], ...]:
    """Every `section.key` with its dataclass field and its type; a section may have sections."""
    return tuple(_fields(Config, ""))


def _fields(kind: type, prefix: str) -> Iterator[tuple[str, dataclasses.Field, type]]:
    types: dict[str, type] = get_type_hints(kind)
    for item in dataclasses.fields(kind):
        inner = types[item.name]
        if dataclasses.is_dataclass(inner):
            yield from _fields(inner, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", item, inner


def type_name(kind: type) -> str:
    """`int`, `float`, `bool`, `str`, `list[str]` or `mapping`."""
    if get_origin(kind) is dict:
        return "mapping"
    return str(kind) if get_args(kind) else kind.__name__
