"""What is valid key by key and cannot work together."""

from __future__ import annotations

from pathlib import Path

from learner.config.schema import Config


def impossible(cfg: Config) -> str | None:
    """Why this configuration cannot be run, naming the keys; None if it can."""
    model, tasks, rl, rows = cfg.model, cfg.tasks, cfg.rl, cfg.learner.row_tokens
    names = [*tasks.held_in, *tasks.held_out]
    twice = sorted({name for name in names if names.count(name) > 1})
    if unknown := sorted(set(cfg.run.track) - {"wandb", "mlflow", "trackio"}):
        return f"run.track={','.join(unknown)}: trackers are wandb, mlflow and trackio"
    if cfg.sandbox.hosts and cfg.run.mode == "serial":
        return "sandbox.hosts are Ray actors, which run.mode=serial has not: leave one out"
    if Path(cfg.run.name).name != cfg.run.name or cfg.run.name == "..":
        return f"run.name={cfg.run.name} must be a plain folder name"
    if _in_job_folder() and not Path(cfg.run.dir).is_absolute():
        return (
            f"run.dir={cfg.run.dir} is relative, and the working directory of a Ray job is deleted when it ends: "
            "give an absolute folder that all nodes share"
        )
    if model.response >= model.context:
        return f"model.response={model.response} must be below model.context={model.context}: it is a part of it"
    if len(model.thinking) not in (0, 2):
        return f"model.thinking={list(model.thinking)} must be two texts: what begins thinking and what ends it"
    if rows < model.context:
        return f"learner.row_tokens={rows} must be at least model.context={model.context}: a row holds a whole example"
    if not tasks.held_in:
        return "tasks.held_in is empty: there is nothing to train on"
    if twice:
        return f"tasks.held_in and tasks.held_out name {', '.join(twice)} twice"
    if cfg.run.mode == "serial" and (cfg.learner.ranks > 1 or max(cfg.actors.count, cfg.actors.max) > 1):
        return "run.mode=serial is one process: learner.ranks, actors.count and actors.max must be 1 (or actors.max 0)"
    if cfg.sandbox.backend == "simulated" and not cfg.sandbox.recorded:
        return "sandbox.backend=simulated needs sandbox.recorded: an experiment cache, such as runs/NAME/experiments"
    if cfg.sandbox.requirements and (cfg.sandbox.image or cfg.sandbox.packages != "base"):
        other = "image" if cfg.sandbox.image else "packages"
        return f"sandbox.requirements are all that experiments find: leave sandbox.{other} out, or them"
    if cfg.sandbox.hosts and not (cfg.sandbox.cpus and cfg.sandbox.memory_gb):
        return f"sandbox.hosts={cfg.sandbox.hosts} needs sandbox.cpus and sandbox.memory_gb: what one host offers"
    if cfg.evaluation.every and cfg.sandbox.backend == "simulated":
        return "evaluation.every needs experiments that run, which sandbox.backend=simulated has not"
    if cfg.evaluation.patience and not cfg.evaluation.every:
        return "evaluation.patience counts evaluations beside training: evaluation.every says how often there is one"
    for name in ("learner", "actors", "sandbox"):
        label = getattr(cfg, name).node
        if label and not all(label.partition("=")):
            return f"{name}.node={label} must be a Ray label KEY=VALUE, such as role={name}"
    if cfg.editor.endpoint and not cfg.editor.model:
        return "editor.endpoint needs editor.model: the name of a model that is served there"
    experts = cfg.experts
    if experts.kind == "llm" and not experts.model:
        return "experts.kind=llm needs experts.model: the name of a model at experts.endpoint, a folder or a hub id"
    if experts.response >= experts.context:
        return (
            f"experts.response={experts.response} must be below experts.context={experts.context}: it is a part of it"
        )
    if experts.embeddings.startswith(("http://", "https://")) and not experts.embedding_model:
        return "experts.embeddings is an endpoint and needs experts.embedding_model: the name of a model there"
    if rl.actions < 2 and rl.algorithm in ("grpo", "centred", "rloo"):
        return f"rl.actions={rl.actions} must be at least 2: {rl.algorithm} compares the rewards of a group"
    if rl.objective == "best_of" and rl.best_of >= rl.actions:
        return f"rl.best_of={rl.best_of} must be below rl.actions={rl.actions}: the best of k is estimated from more"
    if rl.objective in ("best_of", "entropic") and rl.algorithm == "ppo":
        return f"rl.objective={rl.objective} compares the rewards of a group: rl.algorithm=ppo does not, take rloo"
    if rl.objective == "entropic" and not rl.entropic_beta and rl.algorithm == "grpo":
        return (
            "rl.objective=entropic with rl.entropic_beta=0 gives advantages that know no scale of rewards, which "
            "rl.algorithm=grpo would divide by: take centred or rloo, or set rl.entropic_beta"
        )
    if rl.discount and rl.episode_steps > 1:
        return f"rl.discount={rl.discount} is of single steps: rl.episode_steps={rl.episode_steps} must be 1"
    if rl.curriculum and len({"@" in name for name in tasks.held_in}) < 2:
        return "rl.curriculum needs tasks.held_in of both kinds, such as [wine@0.1,wine]"
    if 0 < rl.dual_clip <= 1:
        return f"rl.dual_clip={rl.dual_clip} must be above 1, or 0 for none"
    if rl.dual_clip and rl.loss == "cispo":
        return "rl.dual_clip is of rl.loss=ppo: cispo bounds every ratio by rl.clip_high"
    if rl.mask_low >= rl.mask_high:
        return f"rl.mask_low={rl.mask_low} must be below rl.mask_high={rl.mask_high}"
    if cfg.learner.offload == "optimizer" and not cfg.learner.zero_stage:
        return "learner.offload=optimizer needs learner.zero_stage of 1 or more"
    if cfg.learner.offload == "all" and cfg.learner.zero_stage < 3:
        return "learner.offload=all needs learner.zero_stage=3"
    if cfg.learner.lora.targets and not cfg.learner.lora.rank:
        return "learner.lora.targets needs learner.lora.rank: the width of the adapters"
    most = max(cfg.actors.max, cfg.actors.count)
    if not cfg.actors.min <= cfg.actors.count <= most or 0 < cfg.actors.max < cfg.actors.count:
        return f"actors.min={cfg.actors.min} ≤ actors.count={cfg.actors.count} ≤ actors.max={cfg.actors.max} must hold"
    if cfg.learner.transfer == "nccl" and not (cfg.learner.gpus and cfg.actors.gpus and cfg.run.mode == "ray"):
        return "learner.transfer=nccl needs GPUs for learner and actors: learner.gpus, actors.gpus and run.mode=ray"
    if cfg.actors.gpus > 1 and cfg.actors.gpus % 1:
        return f"actors.gpus={cfg.actors.gpus:g}: an engine has whole cards, or a share of one"
    if cfg.learner.transfer == "nccl" and (cfg.learner.gpus < 1 or cfg.actors.gpus < 1):
        return "learner.transfer=nccl takes no two processes of one card: use ipc, or give each whole cards"
    if cfg.learner.transfer == "ipc" and not share_a_card(cfg):
        return (
            "learner.transfer=ipc is for one card that all share: run.mode=ray, learner.ranks=1, and shares of a card "
            "(learner.gpus, and actors.gpus of each actor) that come to 1 at most"
        )
    if cfg.actors.colocate and not (share_a_card(cfg) and max(cfg.actors.max, cfg.actors.count) == 1):
        return (
            "actors.colocate is for one card that the learner and one actor have in turns: run.mode=ray, "
            "learner.ranks=1, actors.count=1, and learner.gpus and actors.gpus that come to 1 at most, such as 0.5 each"
        )
    if cfg.actors.colocate and cfg.learner.transfer != "object_store":
        return "actors.colocate needs learner.transfer=object_store: the learner is away when the engine takes weights"
    if cfg.actors.colocate and cfg.learner.full_every > 1:
        return (
            "actors.colocate needs learner.full_every=1: the learner is away when an actor joins, and needs them whole"
        )
    if cfg.actors.colocate and experts.kind == "llm" and not experts.endpoint and not experts.path:
        return "actors.colocate leaves no card to serve experts.model: give experts.endpoint or experts.path"
    if cfg.learner.transfer == "nccl" and cfg.learner.full_every > 1:
        return "learner.transfer=nccl always sends full weights: learner.full_every must be 1"
    if cfg.learner.ranks > 1 and cfg.learner.gpus % 1:
        return f"learner.gpus={cfg.learner.gpus:g} has two of the learner.ranks on one card: give each a whole one"
    if rl.gap_stop <= rl.gap_warn:
        return f"rl.gap_stop={rl.gap_stop} must be above rl.gap_warn={rl.gap_warn}"
    return None


def share_a_card(cfg: Config) -> bool:
    """Whether the learner and all actors are on one GPU."""
    learner, actors = cfg.learner, cfg.actors
    together = learner.gpus + actors.gpus * max(actors.max, actors.count)
    return bool(learner.ranks == 1 and learner.gpus and actors.gpus and together <= 1 and cfg.run.mode == "ray")


def _in_job_folder() -> bool:
    """Whether this is a Ray job that runs in Ray's own copy of the working directory."""
    return "runtime_resources" in Path.cwd().parts
