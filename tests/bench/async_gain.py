"""Transitions per second of the asynchronous loop over the synchronous one, where experiments take very unequal times.

`python tests/bench/async_gain.py [--json] [--staleness 0 1 2 4 8] [--seconds 60]`. Real stream, real Ray actors and
one batch after another as in `learner/main.py`; generation, experiments and training take their time by sleeping, so
that the machine's cores are no limit and every setting gets the same work: the durations of group i are drawn with seed
i from a log-normal distribution, cut off at a time limit. What bounds the gain is said with it: with unlimited
staleness, the busier of learner and actors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[2]))

from envs.records import State
from learner.stream.states import StatePool
from learner.stream.stream import Cursor, Stream

SCALE = 0.01
"""Seconds of this bench per second of the work it stands for."""
GENERATE, TRAIN, MEDIAN, SIGMA, LIMIT = 20.0, 60.0, 20.0, 1.6, 1800.0
"""Seconds: sampling a group, a learner step, the median experiment, the deviation of its logarithm, the time limit."""


def durations(index: int, actions: int) -> np.ndarray:
    """Seconds of a group's experiments."""
    return np.minimum(np.random.default_rng(index).lognormal(np.log(MEDIAN), SIGMA, actions), LIMIT)


class Worker:
    """An actor that samples and runs groups by sleeping, `slots` groups at once."""

    async def collect(self, name: str, stream: Any, slots: int) -> None:
        await asyncio.gather(*(self._loop(name, stream) for _ in range(slots)))

    async def _loop(self, name: str, stream: Any) -> None:
        ticket = await stream.admit.remote(name)
        while ticket:
            await asyncio.sleep(SCALE * (GENERATE + durations(ticket.index, len(ticket.seeds)).max()))
            ticket = await stream.exchange.remote(name, ticket.group_id, pickle.dumps(ticket.index))


def run(staleness: int, args: argparse.Namespace) -> dict[str, float]:
    pool = StatePool([State("s", "t", "s")], 0)
    stream = ray.remote(num_cpus=0)(Stream).options(max_concurrency=1000)
    stream = stream.remote(pool, 0, 10**9, args.states, args.actions, staleness, Cursor())
    workers = [ray.remote(num_cpus=0)(Worker).remote() for _ in range(args.actors)]
    running = [worker.collect.remote(str(i), stream, args.slots) for i, worker in enumerate(workers)]
    trained, waited, began = 0, 0.0, time.monotonic()
    while time.monotonic() - began < args.seconds:
        asked = time.monotonic()
        trained += len(ray.get(stream.batch.remote())) * args.actions
        waited += time.monotonic() - asked
        time.sleep(SCALE * TRAIN)
        ray.get(stream.advance.remote())
    seconds = time.monotonic() - began
    stood = ray.get(stream.account.remote()).actors_waited
    ray.get(stream.close.remote())
    ray.wait(running, num_returns=len(running), timeout=5)
    for handle in [*workers, stream]:
        ray.kill(handle)
    slots = args.actors * args.slots
    return {
        "staleness": staleness, "per_s": trained / seconds * SCALE,
        "learner_idle": waited / seconds, "actors_idle": min(1.0, stood / seconds / slots),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 2, 4, 8])
    parser.add_argument("--states", type=int, default=8, help="groups of a learner step")
    parser.add_argument("--actions", type=int, default=8)
    parser.add_argument("--actors", type=int, default=4)
    parser.add_argument("--slots", type=int, default=16, help="groups at once on an actor")
    parser.add_argument("--seconds", type=float, default=60.0, help="measured per setting")
    args = parser.parse_args()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    rows = []
    for staleness in args.staleness:
        rows.append(run(staleness, args))
        rows[-1]["gain"] = rows[-1]["per_s"] / rows[0]["per_s"]
        print(rows[-1], file=sys.stderr, flush=True)
    ray.shutdown()
    spans = [GENERATE + durations(index, args.actions).max() for index in range(2000)]
    learner = args.states * args.actions / TRAIN
    actors = args.actors * args.slots * args.actions / float(np.mean(spans))
    title = f"bounds: learner {learner:.2f}/s, actors {actors:.2f}/s (a group takes {np.mean(spans):.0f} s, "
    table = Table(title=f"{title}at the median {np.median(spans):.0f} s)")
    for head in ("max_staleness", "transitions/s", "gain", "learner idle", "actors idle"):
        table.add_column(head, justify="right")
    for row in rows:
        idle = (f"{row[name]:.0%}" for name in ("learner_idle", "actors_idle"))
        table.add_row(str(row["staleness"]), f"{row['per_s']:.3f}", f"{row['gain']:.2f}", *idle)
    Console(width=110).print(table)
    if args.json:
        print(json.dumps({"bound_learner": learner, "bound_actors": actors, "rows": rows}))


if __name__ == "__main__":
    main()
