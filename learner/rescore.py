"""What another reward would have made of a run: `python learner/rescore.py RUN reward.version=v2`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from omegaconf import OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table

from envs.errors import FAILURES
from learner.algorithm.algorithms import aim
from learner.config.defaults import defaults
from learner.config.load import ConfigError, load
from learner.reporting.rescoring import Changes, Rescored, RescoreError, changes, rescored
from reward import Terms

MOST = 5
"""Changes that are shown, the largest."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python learner/rescore.py",
        description="Apply another reward to a run's stored transitions, without running anything.",
        usage="%(prog)s RUN [reward.KEY=VALUE ...] [--json]",
    )
    parser.add_argument(
        "run", nargs="+", help="a run's folder, as runs/quickstart; reward.KEY=VALUE changes its reward"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    options = parser.parse_intermixed_args(arguments)
    settings = [argument for argument in options.run if argument.startswith("reward.")]
    runs = [Path(argument) for argument in options.run if argument not in settings]
    if len(runs) != 1:
        parser.error("name the folder of one run, as runs/quickstart")
    try:
        told = compared(runs[0], settings)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(told))
    else:
        show(told)
    return 0


def compared(run_dir: Path, settings: Sequence[str]) -> dict[str, Any]:
    """What a reward changes: `{"before", "after": the keys of both rewards, "unlike": stored rewards that the run's own
    reward does not give today, "tasks": {task: Changes}, "all": Changes, "largest": [Rescored]}`.

    settings: `reward.KEY=VALUE`, in the place of the run's own.

    Raises:
        ConfigError: a setting cannot be used.
        UserError: the folder holds no run, or not what the reward needs.
    """
    file = run_dir / "config.yaml"
    if not file.is_file():
        raise RescoreError(f"{run_dir} holds no run (no config.yaml): give a run's folder, as runs/quickstart")
    unset, kept = defaults(), OmegaConf.load(file)

    def of_run(name: str) -> Any:  # a run of an earlier version lacks keys
        return OmegaConf.select(kept, name, default=OmegaConf.select(unset, name))

    own = [f"reward.{name}={of_run(f'reward.{name}')}" for name in unset.reward]
    before, after = load(own), load([*own, *settings])
    steps = of_run("rl.episode_steps")
    rl = SimpleNamespace(**{name: of_run(f"rl.{name}") for name in unset.rl})
    how = rl.algorithm, aim(rl), steps, rl.discount
    others = rescored(run_dir, Terms.of(after.reward), steps, of_run("model.response"))
    before_it = rescored(run_dir, Terms.of(before.reward), steps, of_run("model.response"))
    unlike = sum(one.before != one.after for one in before_it)
    tasks = sorted({one.task for one in others})
    largest = sorted(others, key=lambda one: -abs(one.after - one.before))[:MOST]
    return {
        "before": dict(before.reward),
        "after": dict(after.reward),
        "unlike": unlike,
        "tasks": {task: asdict(changes([one for one in others if one.task == task], *how)) for task in tasks},
        "all": asdict(changes(others, *how)) if others else None,
        "largest": [asdict(one) for one in largest if one.before != one.after],
    }


def show(told: Mapping[str, Any]) -> None:
    console = Console(highlight=False)
    changed = [f"reward.{name}={value}" for name, value in told["after"].items() if value != told["before"][name]]
    table = Table("task", box=box.SIMPLE, title=" ".join(changed) or "the run's own reward", title_justify="left")
    for name in ("actions", "mean reward", "by the other", "changed", "in another order", "sign of advantage"):
        table.add_column(name, justify="right")
    for task, of in [*told["tasks"].items(), *([("all", told["all"])] if told["all"] else [])]:
        of = Changes(**of)
        turned = "–" if of.turned is None else str(of.turned)
        means = f"{of.mean_before:.3f}", f"{of.mean_after:.3f}"
        table.add_row(task, str(of.actions), *means, str(of.changed), str(of.reordered), turned)
    console.print(table)
    for one in (Rescored(**change) for change in told["largest"]):
        console.print(f"{one.id} ({one.task}, {one.outcome}): {one.before:.3f} → {one.after:.3f}", markup=False)
    if told["unlike"]:
        console.print(
            f"{told['unlike']} stored rewards are not what the run's own reward gives today: it has changed since, or "
            "the run's settings have",
            markup=False,
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
