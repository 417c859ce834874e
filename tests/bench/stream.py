"""Transitions per second from producer actors through the stream into batches, against `ray.util.queue.Queue`.

`python tests/bench/stream.py [--json] [--actors 8 64 256] [--seconds 15]`. Each producer is a Ray actor (a process)
that asks the stream for leave, makes a group of K transitions of 1,500 token ids each (prompt and response), and
delivers it as an actor does; the driver takes batches as the learner does. The queue gets the same transitions from
the same producers, one `put` each, as a queue between actors and learner is used.

Whether a transition costs the stream more where actors are many is measured apart, as CPU time of its process: all
producers live, so that the machine is equally busy (an idle Ray worker alone takes some 5 ms a second), and at each
count as many of them deliver together `--rate` transitions per second (Ray wakes its threads for each message that
comes alone, and once for several).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pickle
import random
import sys
import time
from pathlib import Path

import numpy as np
import ray
from ray.util.queue import Queue
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[2]))

from envs.records import Outcome, State, StepInfo, Transition
from learner.stream.packed import unpack
from learner.stream.states import StatePool
from learner.stream.stream import Cursor, Stream

PROMPT, RESPONSE = 1372, 128
STATES, STALENESS = 32, 8
QUEUE_BOUND = 4096


def group(name: str, actions: int) -> list[Transition]:
    prompt = np.arange(PROMPT, dtype=np.int32)
    return [
        Transition(
            id=f"{name}/{k:03d}", group_id=name, state_id="s", task_id="t", prompt_ids=prompt,
            response_ids=np.full(RESPONSE, k, np.int32), behaviour_logprobs=np.full(RESPONSE, -0.5, np.float32),
            version_spans=((1, 0, RESPONSE),), outcome=Outcome.EDITED, reward=0.5,
            info=StepInfo("a", "x" * 400, "edit", 0.1, 0.2, "y" * 400, reward_parts={"score": 0.5}),
        )
        for k in range(actions)
    ]  # fmt: skip


class Producer:
    """Does what an actor's loop does, without engine and experiments."""

    def ready(self) -> None:
        pass

    async def collect(self, name: str, stream, every: float = 0.0) -> None:
        """every: seconds from one group to the next, if that is longer than it takes."""
        ticket = await stream.admit.remote(name)
        due = time.monotonic() + random.uniform(0, every)
        while ticket:
            made = pickle.dumps(group(ticket.group_id, len(ticket.seeds)), protocol=5)
            await asyncio.sleep(due - time.monotonic())
            due += every
            ticket = await stream.exchange.remote(name, ticket.group_id, made)

    def fill(self, name: str, queue: Queue, seconds: float) -> None:
        end, made = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            for transition in group(f"{name}-{made}", 8):
                queue.put(transition)
            made += 1


class Timed(Stream):
    async def cpu_seconds(self) -> float:
        return time.process_time()


def through_stream(producers: list, actions: int, seconds: float, rate: float = 0.0) -> tuple[float, float]:
    """Transitions per second, at most `rate` if given, and CPU seconds that each cost the stream."""
    pool = StatePool([State(f"s{i}", "t", f"s{i}") for i in range(64)], 0)
    staleness = STALENESS + len(producers) // STATES
    stream = ray.remote(num_cpus=0)(Timed).options(max_concurrency=4 * len(producers) + 100)
    stream = stream.remote(pool, 0, 10**9, STATES, actions, staleness, Cursor())
    every = len(producers) * actions / rate if rate else 0.0
    running = [producer.collect.remote(str(i), stream, every) for i, producer in enumerate(producers)]
    seen, begun, cpu, before = set(), None, 0.0, 0
    while begun is None or time.monotonic() - begun < seconds:
        batch = unpack(ray.get(stream.batch.remote()))
        ray.get(stream.advance.remote())
        if begun is None:
            before += len(batch)
            if before > 2 * len(producers):  # the first calls of each open its connections
                begun, cpu = time.monotonic(), ray.get(stream.cpu_seconds.remote())
            continue
        ids = {transition.id for one in batch for transition in one}
        assert not ids & seen, "a transition was delivered twice"
        seen |= ids
    found = len(seen) / (time.monotonic() - begun)
    cost = (ray.get(stream.cpu_seconds.remote()) - cpu) / len(seen)
    ray.get(stream.close.remote())
    ray.get(running)
    ray.kill(stream)
    return found, cost


def through_queue(producers: list, seconds: float) -> float:
    """Transitions per second."""
    queue = Queue(QUEUE_BOUND, actor_options={"num_cpus": 0})
    running = [producer.fill.remote(str(i), queue, seconds) for i, producer in enumerate(producers)]
    queue.get()
    begun, taken = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        queue.get()
        taken += 1
    rate = taken / (time.monotonic() - begun)
    while ray.wait(running, num_returns=len(running), timeout=0)[1]:
        queue.get_nowait_batch(queue.qsize())
    queue.shutdown()
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--actors", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--actions", type=int, default=16, help="K, transitions of a group")
    parser.add_argument("--rate", type=float, default=1000.0, help="transitions per second of all actors when paced")
    parser.add_argument("--seconds", type=float, default=15.0, help="measured per figure")
    args = parser.parse_args()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    rows, producers = [], []
    for count in args.actors:
        more = [ray.remote(num_cpus=0)(Producer).remote() for _ in range(count - len(producers))]
        producers += more
        ray.get([producer.ready.remote() for producer in more])
        rate, _ = through_stream(producers[:count], args.actions, args.seconds)
        row = {"actors": count, "stream_per_s": rate, "queue_per_s": through_queue(producers[:count], args.seconds)}
        rows.append(row | {"ratio": row["stream_per_s"] / row["queue_per_s"]})
        print(rows[-1], file=sys.stderr, flush=True)
    for row in rows:
        rate, cost = through_stream(producers[: row["actors"]], args.actions, args.seconds, args.rate)
        row |= {"paced_per_s": rate, "paced_cpu_us": cost * 1e6}
        print(row, file=sys.stderr, flush=True)
    table = Table(
        title=f"groups of {args.actions} transitions of {PROMPT + RESPONSE} token ids, {args.seconds:g} s each; paced: "
        f"of {len(producers)} processes"
    )
    heads = ("stream, transitions/s", "queue, transitions/s", "ratio", "paced, transitions/s", "CPU, µs each")
    for title in ("actors", *heads):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(*(f"{value:,.1f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=110).print(table)
    ray.shutdown()
    if args.json:
        print(json.dumps({"prompt": PROMPT, "response": RESPONSE, "actions": args.actions, "rows": rows}))


if __name__ == "__main__":
    main()
