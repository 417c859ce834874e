"""What a checkpoint costs training: waited for, and written beside it.

`python tests/bench/checkpoints.py [--json] [--model PATH] [--dtype float32] [--steps 4] [--rounds 3] [--folder PATH]`,
on CPUs. A learner of one rank makes the same steps on the same batch in three ways, in turn:

* none: no checkpoint;
* before: after the first step, the next waits until it is written;
* beside: after the first step, the next waits for the copy alone. It is looked after between steps, as in a run.

What is told is the median of the rounds, and how much longer the steps take than without.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[2]))

from actors.policy.model import resolve
from envs.records import Transition
from learner.config.defaults import defaults
from learner.ranks.handle import Learner
from tests.transitions import transition

WAYS = ("none", "before", "beside")
GROUPS, ACTIONS, PROMPT, RESPONSE = 1, 4, 128, 32


def batch() -> list[list[Transition]]:
    rng = np.random.default_rng(0)
    groups = []
    for group in range(GROUPS):
        prompt = rng.integers(0, 40_000, PROMPT).astype(np.int32)
        of_group = [
            transition(
                f"{group}.{member}", prompt, rng.integers(0, 40_000, RESPONSE), float(member % 2),
                np.full(RESPONSE, -8.0), ((1, 0, RESPONSE),),
            )
            for member in range(ACTIONS)
        ]  # fmt: skip
        groups.append(of_group)
    return groups


def seconds(learner: Learner, groups: list[list[Transition]], steps: int, way: str, folder: Path) -> dict[str, float]:
    """Of the steps, of what they waited for, and of the rest of the writing after them."""
    began, waited = time.monotonic(), 0.0
    writing: Generator[None, None, bool] | None = None
    for step in range(steps):
        learner.train(groups, 1)
        asked = time.monotonic()
        if step == 0 and way == "before":
            learner.save(folder)
        if step == 0 and way == "beside":
            writing = learner.saving(folder)
        if writing and next(writing, "ended") == "ended":
            writing = None
        waited += time.monotonic() - asked
    ended = time.monotonic()
    for _ in writing or ():
        time.sleep(0.05)
    return {"steps": ended - began, "waited": waited, "rest": time.monotonic() - ended}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--model", default="builtin:smollm2-135m")
    parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float32"])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where checkpoints are written; a temporary one otherwise")
    args = parser.parse_args()
    os.environ["DS_ACCELERATOR"] = "cpu"
    cfg = defaults()
    cfg.model.dtype, cfg.learner.cpus, cfg.learner.row_tokens, cfg.run.mode = args.dtype, 2.0, 1024, "serial"
    learner, groups = Learner(cfg, resolve(args.model)), batch()
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        for number in range(args.rounds + 1):
            for way in WAYS:
                of_round = seconds(learner, groups, args.steps, way, Path(scratch) / f"{way}-{number % 2}")
                print(way, of_round, file=sys.stderr, flush=True)
                found[way] += [of_round] if number else []  # the first has everything for the first time
    learner.close()
    medians = {way: {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
               for way, rounds in found.items()}  # fmt: skip
    table = Table(title=f"{args.steps} steps, {args.model}, {args.dtype}: seconds")
    for title in ("checkpoint", "steps", "longer than without", "of that waited", "written after the steps"):
        table.add_column(title, justify="right")
    for way, of_way in medians.items():
        longer = of_way["steps"] - medians["none"]["steps"]
        table.add_row(way, f"{of_way['steps']:.1f}", *(f"{x:.1f}" for x in (longer, of_way["waited"], of_way["rest"])))
    Console(width=120).print(table)
    if args.json:
        print(json.dumps({"steps": args.steps, "dtype": args.dtype, "seconds": medians}))


if __name__ == "__main__":
    main()
