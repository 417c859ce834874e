"""What of a run's configuration may change when it is resumed, and how it is resumed.

Invariant: a resumed run has the configuration that it recorded; what else the command line gives is told as a
difference, or refused where what the run did so far could not be gone on with, or compared with what follows.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from learner.config.defaults import defaults
from learner.config.schema import Config, RunConfig, fields

SIMULATED = "simulated"
COMPARED = "rewards and evaluations before and after could not be compared"
FIXED = {
    "the checkpoint has a model and an optimiser of that kind": (
        "model.path", "model.dtype", "learner.lora", "rl.algorithm",
    ),
    "the states of the pool, and what was imitated, came of it": (
        "model.context", "model.response", "model.thinking", "model.template_arguments", "prompt", "experts", "sft",
        "sandbox.snapshots",
    ),
    "the checkpoint has groups of that kind, which are still to be trained": (
        "rl.states", "rl.actions", "rl.episode_steps",
    ),
    "what was drawn so far followed from it": ("run.seed",),
    COMPARED: (
        "tasks", "reward", "rl.temperature", "evaluation.attempts", "evaluation.seed", "editor.model",
        "sandbox.image", "sandbox.packages", "sandbox.requirements",
    ),
}  # fmt: skip
"""Keys and sections that a resumed run has as it began with them, by the reason."""
FREE = ("experts.endpoint", "experts.key_variable", "sft.checkpoint_every")
"""Keys of those sections that may change: where a model is reached, and what only costs time."""
IDENTITY = ("run.name", "run.dir", "run.resume")
"""Keys that say which run it is; its folder may have been moved."""


def fixed(name: str) -> str:
    """Why a resumed run keeps its value of the key; empty where it may have another."""
    if name in FREE:
        return ""
    return next((why for why, names in FIXED.items() if any(f"{name}.".startswith(f"{n}.") for n in names)), "")


def differences(before: Any, after: Any) -> Iterator[tuple[str, object, object]]:
    """Key, value before and value after, of each key that differs in two configurations; one that a run of an earlier
    version recorded may lack keys."""
    unset = defaults()
    for name, _, _ in fields():
        then, now = OmegaConf.select(before, name, default=OmegaConf.select(unset, name)), OmegaConf.select(after, name)
        if then != now and name not in IDENTITY:
            yield name, then, now


def refused(before: Any, after: Any) -> str | None:
    """Why a run that recorded `before` cannot go on with `after`, naming the key; None if it can."""
    for name, then, now in differences(before, after):
        reason = fixed(name)
        if name == "rl.kl" and not then:
            reason = "no copy of the fine-tuned policy was kept"
        if name == "sandbox.backend" and SIMULATED in (then, now):
            reason = COMPARED
        if reason:
            return (
                f"{name}={now}: a resumed run keeps {name}={then}, since {reason}; leave it out, or begin a run under "
                "another run.name (model.path=RUN/checkpoints/best/hf begins with these weights)"
            )
    return None


def behind(run_dir: Path, cfg: Config) -> str | None:
    """Why the run of that folder cannot go on with so few `rl.steps`; None if it can."""
    names = [path.name.removeprefix("step_") for path in (run_dir / "checkpoints").glob("step_*")]
    done = max((int(name) for name in names if name.isdecimal()), default=0)
    if cfg.rl.steps < done:
        return (
            f"rl.steps={cfg.rl.steps}: the run's last checkpoint is of step {done}, and what was learned is not taken "
            f"back; give rl.steps={done} or more, or begin a run under another run.name "
            f"(model.path={run_dir}/checkpoints/step_N/hf begins with an earlier checkpoint's weights)"
        )
    return None


def again(cfg: Config) -> str:
    """The arguments that resume the run."""
    where = [] if cfg.run.dir == RunConfig().dir else [f"run.dir={Path(cfg.run.dir).resolve()}"]
    return shlex.join(["run.resume=true", f"run.name={cfg.run.name}", *where])
