"""Seconds from "optimiser step done" to "all actors serve the new version", against reloading from disk.

`python tests/bench/weights.py [--json] [--model PATH] [--actors 1 2 4] [--repeats 3]`. By number of actors on this
machine: our publish (pack, object store, load); `save_pretrained` and a new engine on that folder; the same with vLLM's
reload in place, which is no replacement (on a CPU, a head tied to the embeddings goes on with the old weights); and, as
floors, the engine's own `load_weights` of the same tensors out of its own memory (also in one engine that returns freed
memory to the system, as vLLM does by itself), and a plain copy of the same bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[2]))

from actors.policy import policy as policy_module
from actors.policy.model import resolve
from actors.policy.policy import Policy
from learner.config.defaults import defaults, settle
from learner.ranks.handle import Learner
from learner.ranks.publisher import BUCKET_BYTES


class Server:
    """An actor's engine without its environment."""

    def __init__(self, name: str, model_dir: str, cfg: Any, keeps_memory: bool = True):
        if not keeps_memory:
            policy_module.KEPT_MEMORY = {}
        arguments = policy_module.engine_arguments
        extended = {"worker_extension_cls": "tests.bench.weights_floor.Floor"}
        policy_module.engine_arguments = lambda *args: arguments(*args) | extended
        self.policy = Policy(name, model_dir, cfg, 0)

    async def start(self) -> float:
        began = time.monotonic()
        await self.policy.start()
        return time.monotonic() - began

    async def receive(self, version: int, buckets: list) -> dict[str, float]:
        """Seconds to fetch the buckets, and to verify and load them."""
        began = time.monotonic()
        fetched = await asyncio.gather(*buckets)
        here = time.monotonic()
        await self.policy.update_weights(fetched, version)
        return {"fetch": here - began, "load": time.monotonic() - here}

    async def load_here(self, buckets: list) -> float:
        """Seconds of the engine's own `load_weights`, of tensors that are in its memory already."""
        update = self.policy._shelf.put(await asyncio.gather(*buckets))
        return max(await self.policy._engine.collective_rpc("load_here", args=(update,)))

    async def reload(self, folder: str) -> float:
        """vLLM's own way to take new weights from disk without a new engine."""
        began = time.monotonic()
        await self.policy._engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        return time.monotonic() - began

    def close(self) -> None:
        self.policy.close()


def publish(learner: Learner, servers: list, version: int) -> tuple[float, list[dict[str, float]]]:
    """Seconds until all serve the version, and what each spent on what."""
    began = time.monotonic()
    buckets = learner.publish(BUCKET_BYTES, version).buckets
    packed = time.monotonic() - began
    parts = ray.get([server.receive.remote(version, buckets) for server in servers])
    return time.monotonic() - began, [part | {"pack": packed} for part in parts]


def load_seconds(learner: Learner, servers: list, repeats: int) -> float:
    """Median seconds until all have loaded what is in their memory."""
    buckets = learner.publish(BUCKET_BYTES, 0).buckets
    ray.get([server.load_here.remote(buckets) for server in servers])  # the first touches fresh memory
    loads = [max(ray.get([server.load_here.remote(buckets) for server in servers])) for _ in range(repeats)]
    return statistics.median(loads)


def reload(learner: Learner, servers: list) -> float:
    """Seconds to save the weights and have all engines read them."""
    with tempfile.TemporaryDirectory() as saved:
        began = time.monotonic()
        learner.export(Path(saved) / "hf")
        ray.get([server.reload.remote(f"{saved}/hf") for server in servers])
        return time.monotonic() - began


def save_seconds(learner: Learner) -> float:
    with tempfile.TemporaryDirectory() as saved:
        began = time.monotonic()
        learner.export(Path(saved) / "hf")
        return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--model", default="builtin:smollm2-135m")
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=9, help="of which the median counts")
    args = parser.parse_args()
    folder = resolve(args.model)
    cfg = defaults()
    settle(cfg)
    cfg.actors.sequences, cfg.actors.kv_cache_gb, cfg.actors.cpus = 8, 0.2, 1
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    learner, servers, rows, version = Learner(cfg, folder), [], [], 0
    server = ray.remote(num_cpus=0, max_concurrency=10)(Server)
    plain = server.remote("plain", str(folder), cfg, keeps_memory=False)
    ray.get(plain.start.remote())
    plain_load = load_seconds(learner, [plain], args.repeats)
    ray.get(plain.close.remote())
    for count in args.actors:
        more = [server.remote(f"actor-{i}", str(folder), cfg) for i in range(len(servers), count)]
        started = ray.get([server.start.remote() for server in more])
        servers += more
        # The first touch fresh memory: the learner's, the actors', several generations of buckets in the object store.
        for _ in range(8):
            publish(learner, servers, version := version + 1)
        runs = [publish(learner, servers, version := version + 1) for _ in range(args.repeats)]
        seconds, parts = sorted(runs, key=lambda run: run[0])[len(runs) // 2]
        row = {"actors": count, "publish_seconds": seconds}
        row |= {f"publish_{name}": max(part[name] for part in parts) for name in ("pack", "fetch", "load")}
        row["load_seconds"] = load_seconds(learner, servers, args.repeats)
        row["reload_seconds"] = statistics.median(reload(learner, servers) for _ in range(args.repeats))
        row["restart_seconds"] = save_seconds(learner) + max(started)
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    buckets = ray.get(learner.publish(BUCKET_BYTES, 0).buckets)
    copy = statistics.median(copy_seconds([bucket.data for bucket in buckets]) for _ in range(5))
    size = sum(bucket.data.nbytes for bucket in buckets) / 1e6
    table = Table(title=f"{size:.0f} MB; plain copy {copy:.3f} s, load_weights of vLLM by itself {plain_load:.3f} s")
    heads = ("publish s", "of it pack", "fetch", "load", "/ load_weights", "save + new engine /", "save + in place /")
    for title in ("actors", *heads):
        table.add_column(title, justify="right")
    for row in rows:
        row["over_load"] = row["publish_seconds"] / row["load_seconds"]
        row["over_restart"] = row["restart_seconds"] / row["publish_seconds"]
        row["over_reload"] = row["reload_seconds"] / row["publish_seconds"]
        seconds = (f"{row[f'publish_{name}']:.3f}" for name in ("seconds", "pack", "fetch", "load"))
        ratios = f"{row['over_load']:.2f}", f"{row['over_restart']:.1f}", f"{row['over_reload']:.1f}"
        table.add_row(str(row["actors"]), *seconds, *ratios)
    Console(width=110).print(table)
    ray.get([server.close.remote() for server in servers])
    learner.close()
    ray.shutdown()
    if args.json:
        print(json.dumps({"copy_seconds": copy, "plain_load_seconds": plain_load, "rows": rows}))


def copy_seconds(arrays: list[np.ndarray]) -> float:
    targets = [np.empty_like(array) for array in arrays]
    for target in targets:
        target.fill(0)
    began = time.monotonic()
    for target, array in zip(targets, arrays, strict=True):
        np.copyto(target, array)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
