"""How long the learner waits for its batches, and for what, by `rl.max_staleness`, where training is fast.

`python tests/bench/waiting.py [--json] [--cores 16] [--experiment 0.17] [--train 0.7] …`. The real stream, the real
account of what was waited for and as many groups at once as an actor samples, in virtual time, so that a machine of any
size can be asked for and nothing else disturbs the figures. Engine, cores and learner take their time: by default that
of the quickstart on one GPU (SmolLM2-135M on an H200 with 16 cores: 12,500 tokens/s of 64 sequences, 0.17 s for an
experiment, 0.7 s for training, 0.4 s for publishing). Durations of experiments are log-normal about that mean, cut off
at a time limit; those of each group are drawn with its number, so that every setting has the same work. The last column
is how much faster that is than with only as many groups in hand as fill the engine, and one more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[2]))

from actors.actor import loops
from envs.records import Durations, Outcome, State, StepInfo, Transition
from learner.config.load import load
from learner.figures.waiting import PARTS, in_words, waited_for
from learner.stream.packed import unpack
from learner.stream.states import StatePool
from learner.stream.stream import Cursor, Stream
from tests.virtual_time import VirtualTime

TOKENS = 90, 0.3
"""Of a response: the median, and the deviation of its logarithm."""
NONE = np.zeros(0, np.int32)


class Actor:
    """One engine and the cores beside it."""

    def __init__(self, stream: Stream, args: argparse.Namespace):
        self._stream, self._args = stream, args
        self._sequences, self._cores = asyncio.Semaphore(args.sequences), asyncio.Semaphore(args.cores)
        self._now = asyncio.get_running_loop().time

    async def collect(self) -> None:
        """One group after another."""
        ticket = await self._stream.admit("actor")
        while ticket:
            rng = np.random.default_rng(ticket.index)
            names = (f"{ticket.group_id}/{k:03d}" for k in range(len(ticket.seeds)))
            made = [self._act(name, ticket.step, rng.normal(size=2)) for name in names]
            transitions = pickle.dumps(await asyncio.gather(*made))
            ticket = await self._stream.exchange("actor", ticket.group_id, transitions)

    async def _act(self, name: str, version: int, luck: np.ndarray) -> Transition:
        args, sigma = self._args, self._args.sigma
        began = self._now()
        async with self._sequences:
            await asyncio.sleep(TOKENS[0] * math.exp(TOKENS[1] * luck[0]) * args.sequences / args.tokens)
        sampled = self._now()
        async with self._cores:
            started = self._now()
            await asyncio.sleep(min(args.limit, args.experiment * math.exp(sigma * luck[1] - sigma**2 / 2)))
        spent = Durations(queue=started - sampled, execute=self._now() - started)
        info = StepInfo(durations=spent, generate_seconds=sampled - began, finished=self._now())
        spans = ((version, 0, 1),)
        return Transition(name, name[:12], "s", "t", NONE, NONE, NONE, spans, Outcome.EDITED, 0.5, info=info)


def in_hand(staleness: int, args: argparse.Namespace) -> int:
    """Groups that an actor has at once."""
    keys = {"rl.max_staleness": staleness, "rl.actions": args.actions, "rl.states": args.states}
    cfg = load([*(f"{key}={value}" for key, value in keys.items()), f"actors.sequences={args.sequences}"])
    return loops(cfg) if staleness else args.states


async def run(staleness: int, slots: int, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one setting."""
    pool = StatePool([State("s", "t", "s")], 0)
    stream = Stream(pool, 0, args.steps, args.states, args.actions, staleness, Cursor())
    actor, now = Actor(stream, args), asyncio.get_running_loop().time
    running = [asyncio.create_task(actor.collect()) for _ in range(slots)]
    spent, old = dict.fromkeys(PARTS, 0.0), []
    for step in range(args.steps):
        asked = now()
        groups = unpack(await stream.batch())
        for part, seconds in waited_for(groups, asked, now()).items():
            spent[part] += seconds
        old += [step - t.version_spans[0][0] for group in groups for t in group]
        await asyncio.sleep(args.train + args.publish)
        await stream.advance()
    await stream.close()
    await asyncio.gather(*running)
    return {
        "staleness": staleness, "waits": sum(spent.values()) / now(), "seconds": now() / args.steps,
        "staleness_mean": float(np.mean(old)), "words": in_words(spent, args.publish * args.steps, now()),
    }  # fmt: skip


def simulated(staleness: int, slots: int, args: argparse.Namespace) -> dict[str, Any]:
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(run(staleness, slots, args))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 2, 3, 4, 8])
    parser.add_argument("--states", type=int, default=4, help="groups of a learner step")
    parser.add_argument("--actions", type=int, default=16)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--cores", type=int, default=16, help="experiments at once")
    parser.add_argument("--experiment", type=float, default=0.17, help="mean seconds of one")
    parser.add_argument("--sigma", type=float, default=1.0, help="deviation of the logarithm of these seconds")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds that one may take")
    parser.add_argument("--sequences", type=int, default=64, help="sequences that the engine decodes at once")
    parser.add_argument("--tokens", type=float, default=12_500.0, help="tokens per second of all of them")
    parser.add_argument("--train", type=float, default=0.7, help="seconds of a learner step")
    parser.add_argument("--publish", type=float, default=0.4, help="seconds until actors serve its weights")
    args = parser.parse_args()
    rows = []
    for staleness in args.staleness:
        slots, filled = in_hand(staleness, args), math.ceil(args.sequences / args.actions) + 1
        row, before = (simulated(staleness, number, args) for number in (slots, min(slots, filled)))
        rows.append(row | {"gain": before["seconds"] / row["seconds"]})
    table = Table(title=f"{args.cores} cores, {args.experiment:g} s an experiment, {args.train:g} s training")
    for head in ("max_staleness", "the learner", "seconds per step", "mean staleness", "× engine's fill"):
        table.add_column(head)
    for row in rows:
        numbers = f"{row['seconds']:.2f}", f"{row['staleness_mean']:.2f}", f"{row['gain']:.2f}"
        table.add_row(str(row["staleness"]), row["words"], *numbers)
    Console(width=120).print(table)
    if args.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
