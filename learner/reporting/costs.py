"""What a run cost, per task and in all, and what the reward gained for it; pure functions.

The price of a run is the time of its machines (the cores and GPUs that learner and actors hold, for as long as the run
took), a core for each experiment's seconds, and the tokens where they are paid by number. Invariants: the prices of
the tasks add up to that of the run; the machines' part is shared by the tokens that a task generated; experiments
whose result came out of the cache cost nothing.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from envs.records import Origin
from learner.reporting.report_data import RunData

UNIT = 0.01
"""The improvement, in mean reward, that the price of improvement is stated for."""


@dataclass(frozen=True)
class Cost:
    """What one task, or a whole run, took."""

    actions: int = 0
    """Of the expert, of evaluation and of RL."""
    experiment_seconds: float = 0.0
    generated: int = 0
    """Response tokens of evaluation and RL."""
    trained: int = 0
    """Tokens in RL batches: responses, and each group's prompt once."""
    price: float = 0.0
    gain: float | None = None
    """Mean reward of the last evaluated stage less that of the first."""

    @property
    def price_of_gain(self) -> float | None:
        """Price of each `UNIT` that the mean reward rose; None where it did not."""
        return self.price * UNIT / self.gain if self.gain and self.gain > 0 else None


@dataclass(frozen=True)
class Costs:
    """Those of one run."""

    tasks: Mapping[str, Cost]
    total: Cost
    """Its gain is that of the held-in tasks."""
    held_out: Cost
    """The same with the gain of the held-out tasks, which cost only their evaluation."""
    hours: float
    """Wall-clock time."""
    cpus: float
    gpus: float
    """Cores and GPUs that learner and actors hold."""


def of_run(run: RunData) -> Costs:
    counts = _counts(run)
    hours = sum(run.stage_seconds.values()) / 3600
    learner, actors, prices = run.config["learner"], run.config["actors"], run.prices
    cpus, gpus = (learner["ranks"] * learner[kind] + actors["count"] * actors[kind] for kind in ("cpus", "gpus"))
    machines = hours * (cpus * prices["cpu_hour"] + gpus * prices["gpu_hour"])
    generated = sum(counted["generated"] for counted in counts.values())
    gains = {task["task"]: _gain(task["stages"]) for task in run.results["tasks"]}
    tasks = {
        task: Cost(
            **counted,
            price=machines * (counted["generated"] / generated if generated else 1 / len(counts))
            + counted["experiment_seconds"] / 3600 * prices["cpu_hour"]
            + counted["generated"] / 1e6 * prices["million_tokens"],
            gain=gains.get(task),
        )
        for task, counted in counts.items()
    }
    names = ("actions", "experiment_seconds", "generated", "trained", "price")
    whole = {name: sum(getattr(cost, name) for cost in tasks.values()) for name in names}
    whole["price"] = whole["price"] if tasks else machines
    held_in, held_out = (_gain(run.results["splits"].get(split, {})) for split in ("held_in", "held_out"))
    return Costs(tasks, Cost(**whole, gain=held_in), Cost(**whole, gain=held_out), hours, cpus, gpus)


def _counts(run: RunData) -> dict[str, dict[str, Any]]:
    """By task: what `Cost` counts."""
    counts: dict[str, collections.Counter] = collections.defaultdict(
        lambda: collections.Counter(actions=0, experiment_seconds=0.0, generated=0, trained=0)
    )
    for task in run.results["tasks"]:
        for figures in task["stages"].values():
            counts[task["task"]].update(
                actions=figures["n"] + figures["infra_failures"],
                experiment_seconds=figures["experiment_seconds"],
                generated=figures["response_tokens"],
            )
    for row in run.expert:
        counts[row["task"]].update(actions=1, experiment_seconds=_paid(row["execute"], row["origin"]))
    prompts = set()
    for row in run.moves:
        prompt = 0 if row["group_id"] in prompts else row["prompt_ids"]
        prompts.add(row["group_id"])
        counts[row["task_id"]].update(
            actions=1,
            experiment_seconds=_paid(row["execute_seconds"], row["origin"]),
            generated=row["response_ids"],
            trained=row["response_ids"] + prompt,
        )
    return {task: dict(figures) for task, figures in counts.items()}


def _paid(seconds: float, origin: str) -> float:
    return seconds if origin == Origin.RUN else 0.0


def _gain(stages: Mapping[str, Mapping[str, Any]]) -> float | None:
    rewards = [stage["mean_reward"] for stage in stages.values() if stage["mean_reward"] is not None]
    return rewards[-1] - rewards[0] if len(rewards) > 1 else None
