"""Adapters against full training: what each learns from the same examples, and then from its own rewards.

    python tests/bench/lora.py FOLDER [full|adapters] [key=value ...]

runs `learner/main.py config=quickstart` on two tasks, with few steps, once with each (or the one that is named), and
prints what is in the folder: the run with adapters imitates the trajectories of the other. Five minutes each on two
idle cores. Attempts of all stages have the same seeds; intervals are of attempts, not of seeds of training.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
BOTH = (
    "config=quickstart", "tasks.held_in=[wine,diabetes]", "tasks.held_out=[]", "experts.trajectories=40",
    "sft.epochs=4", "sft.held_out=0.1", "rl.steps=4", "rl.states=2", "sandbox.backend=process",
    "evaluation.attempts=16", "learner.check_every=1",
)  # fmt: skip
VARIANTS = {
    "full": (),
    "adapters": (
        "learner.lora.rank=16",
        "sft.learning_rate=2e-3",
        "rl.learning_rate=3e-4",
        "experts.path={folder}/full",
    ),
}


def train(folder: Path, variant: str, arguments: list[str]) -> None:
    given = [*BOTH, *VARIANTS[variant], f"run.dir={folder}", f"run.name={variant}", *arguments]
    command = [sys.executable, "learner/main.py", *(argument.format(folder=folder) for argument in given)]
    subprocess.run(command, cwd=ROOT, check=True)


def row(run: Path) -> list[str]:
    """Of a run that has ended."""
    evaluation = json.loads((run / "evaluation.json").read_text())["splits"]["held_in"]
    finetuned = json.loads((run / "finetune.json").read_text())
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rewards = [f"{evaluation[stage]['mean_reward']:.3f}" for stage in ("base", "sft", "rl")]
    gaps = [step["logprob_gap_mean"] for step in steps if step.get("logprob_gap_mean") is not None]
    seconds = [step["train_seconds"] for step in steps]
    checkpoints = sorted((run / "checkpoints").glob("step_*"))
    size = sum(file.stat().st_size for file in checkpoints[-1].rglob("*") if file.is_file())
    return [
        run.name, f"{finetuned['loss_before']:.3f} → {finetuned['loss_after']:.3f}", " → ".join(rewards),
        f"{max(gaps):.4f}", f"{np.median(seconds):.1f} s", f"{size / 1e6:.0f} MB",
    ]  # fmt: skip


def main() -> None:
    folder, arguments = Path(sys.argv[1]).resolve(), sys.argv[2:]
    named = [argument for argument in arguments if argument in VARIANTS]
    for variant in named or VARIANTS:
        train(folder, variant, [argument for argument in arguments if argument not in VARIANTS])
    table = Table("", "loss kept back", "reward: base → fine-tuned → RL", "largest gap", "a step trains", "checkpoint")
    for variant in VARIANTS:
        if (folder / variant / "evaluation.json").exists():
            table.add_row(*row(folder / variant))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
