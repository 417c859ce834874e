"""Memory that each of two learner ranks takes to load a model at ZeRO stage 3 and to export it again.

`python tests/bench/larger.py [--json] [--parameters 1.1e9] [--ranks 2]`, on CPUs. A random Llama is written to a
temporary folder, in files of 1 GB, and taken in two ways, each in processes of its own:

* whole: every rank loads the model and DeepSpeed then divides it; rank 0 gathers all weights and writes them;
* sharded: what `learner.ranks` does.

What is counted is anonymous memory (of `/proc/PID/smaps_rollup`) above what the process had before, at its peak: pages
of the model's files that are mapped cost nothing that the system could not take back.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import deepspeed
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, LlamaConfig

sys.path.insert(0, str(Path(__file__).parents[2]))

from learner.config.defaults import defaults
from learner.config.schema import Config
from learner.model.policy_model import PolicyModel
from learner.ranks import loading
from learner.ranks.trainer import Trainer

WAYS = ("whole", "sharded")
PORT = 29617
EVERY_SECONDS = 0.02


class Peak:
    """The most anonymous memory, in bytes, of this process while a call lasts, above what it had before."""

    def __init__(self) -> None:
        self._ended = threading.Event()

    def of(self, call: Callable[[], object]) -> tuple[object, int, float]:
        """What the call returned, its peak and its seconds."""
        self._ended.clear()
        found = [before := anonymous()]
        watcher = threading.Thread(target=self._watch, args=(found,))
        watcher.start()
        began = time.monotonic()
        try:
            result = call()
        finally:
            self._ended.set()
            watcher.join()
        return result, max(found) - before, time.monotonic() - began

    def _watch(self, found: list[int]) -> None:
        while not self._ended.wait(EVERY_SECONDS):
            found.append(anonymous())


def anonymous() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Anonymous:"))


def write_model(folder: Path, parameters: float) -> int:
    """A random Llama in bfloat16 of about that many parameters; returns its bytes."""
    width = 2048
    layer = 2.5 * width**2 + 3 * width * 5632
    shape = LlamaConfig(
        vocab_size=32_000, hidden_size=width, intermediate_size=5632, num_attention_heads=32, num_key_value_heads=8,
        num_hidden_layers=max(1, round((parameters - 2 * 32_000 * width) / layer)), tie_word_embeddings=False,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    model = AutoModelForCausalLM.from_config(shape)
    model.save_pretrained(folder, max_shard_size="1GB")
    return sum(one.nbytes for one in model.parameters())


class Rank(Trainer):
    """A rank that has a model and no optimiser, whose memory is the same either way."""

    def take(self, way: str) -> None:
        config = loading.deepspeed_config(self.cfg)
        load = {
            "whole": lambda: PolicyModel.load(self.model_dir, torch.bfloat16),
            "sharded": lambda: loading.load(self.model_dir, torch.bfloat16, self.rank, config),
        }[way]
        self.policy = load().requires_grad_(False)
        self.deepspeed, *_ = deepspeed.initialize(model=self.policy, config=config)

    def write(self, way: str, folder: Path) -> None:
        if way == "sharded":
            return self.export(folder)
        weights = {name: tensor.cpu() for name, tensor in self._named_weights(1 << 30) if self.rank == 0}
        if self.rank == 0:
            self.policy.model.save_pretrained(folder, state_dict=weights)


def measure(rank: int, cfg: Config, folder: Path, way: str, answer: Connection) -> None:
    """In a process of its own."""
    one = Rank(cfg, folder, rank)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(PORT), "RANK": str(rank), "LOCAL_RANK": "0",
        "WORLD_SIZE": str(cfg.learner.ranks),
    }  # fmt: skip
    deepspeed.init_distributed("gloo", verbose=False)
    _, loading_peak, loading_seconds = Peak().of(functools.partial(one.take, way))
    _, peak, seconds = Peak().of(functools.partial(one.write, way, folder.parent / way))
    answer.send((loading_peak, loading_seconds, peak, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--parameters", type=float, default=1.1e9)
    parser.add_argument("--ranks", type=int, default=2)
    args = parser.parse_args()
    os.environ["DS_ACCELERATOR"] = "cpu"
    cfg = defaults()
    cfg.learner.ranks, cfg.learner.zero_stage, cfg.learner.cpus, cfg.model.dtype = args.ranks, 3, 1, "bfloat16"
    context, found = multiprocessing.get_context("spawn"), {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        with context.Pool(1) as pool:  # so that no memory of it is left
            size = pool.apply(write_model, (folder, args.parameters))
        for way in WAYS:
            pipes = [context.Pipe(duplex=False) for _ in range(args.ranks)]
            ranks = [
                context.Process(target=measure, args=(rank, cfg, folder, way, there))
                for rank, (_, there) in enumerate(pipes)
            ]
            for process in ranks:
                process.start()
            for _, there in pipes:
                there.close()
            try:
                found[way] = [here.recv() for here, _ in pipes]
            except EOFError:
                sys.exit(f"{way}: a rank was killed, as when memory is short: lower --parameters")
            for process in ranks:
                process.join()
    table = Table(
        title=f"a model of {size / 1e9:.2f} GB on {args.ranks} ranks, its part {size / args.ranks / 1e9:.2f} GB"
    )
    for title in ("rank", "", *(f"{way} GB (s)" for way in WAYS), "ratio"):
        table.add_column(title, justify="right")
    rows = []
    for rank in range(args.ranks):
        for what, at in (("load", 0), ("export", 2)):
            peaks = [found[way][rank][at] / 1e9 for way in WAYS]
            seconds = [found[way][rank][at + 1] for way in WAYS]
            rows.append({"rank": rank, "what": what, **dict(zip(WAYS, peaks, strict=True)), "seconds": seconds})
            cells = (f"{peak:.2f} ({took:.0f})" for peak, took in zip(peaks, seconds, strict=True))
            table.add_row(str(rank), what, *cells, f"{peaks[1] / max(peaks[0], 1e-3):.2f}")
    Console(width=120).print(table)
    if args.json:
        print(json.dumps({"bytes": size, "ranks": args.ranks, "rows": rows}))


if __name__ == "__main__":
    main()
