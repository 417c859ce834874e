"""Time and memory of one gradient pass over groups: shared prompts against padding and against plain packing.

`python tests/bench/learner.py [--json] [--shapes 512,64,8 1024,128,8 2048,128,16] [--model PATH]`. For K responses of R
tokens to a prompt of P, forward and backward of the same model on the same tokens (on a GPU, which more of them keep
busy: `--device cuda --groups 4 --row-tokens 8192`):

* padded: the K sequences of P + R as a batch, as many at once as --padded-batch, log-softmax over the vocabulary;
* packed: each sequence whole, several in a row, without padding, through our model;
* shared: the prompt once, as the learner does it.

Log-probs of all three are compared. Every path runs in a process of its own, for its peak memory: the process's on a
CPU, what torch allocated on a GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import multiprocessing
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[2]))

from actors.policy.model import resolve
from learner.algorithm import batching
from learner.algorithm.batching import Group, Row
from learner.model.policy_model import PolicyModel

PATHS = ("padded", "packed", "shared")


def make_group(seed: int, prompt: int, response: int, actions: int) -> Group:
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, 40_000, length).astype(np.int32) for length in [prompt, *[response] * actions]]
    return Group(ids[0], tuple(ids[1:]))


def padded(model: PreTrainedModel, groups: list[Group], at_once: int) -> np.ndarray:
    """The plain way; gradients of the mean log-prob are accumulated."""
    found = []
    for group, start in itertools.product(groups, range(0, len(groups[0].responses), at_once)):
        responses = np.stack(group.responses[start : start + at_once])
        ids = np.concatenate([np.repeat(group.prompt_ids[None], len(responses), 0), responses], 1)
        logits = model(torch.tensor(ids, dtype=torch.int64, device=model.device), use_cache=False).logits
        kept = logits[:, len(group.prompt_ids) - 1 : -1].float()
        targets = torch.tensor(responses, dtype=torch.int64, device=model.device)
        logprobs = kept.log_softmax(-1).gather(2, targets[..., None])[..., 0]
        logprobs.mean().backward()
        found.append(logprobs.detach().cpu().numpy().ravel())
    return np.concatenate(found)


def side_by_side(groups: list[Group], row_tokens: int) -> list[Row]:
    """Plain packing: as `batching.pack`, but nothing is shared between groups."""
    packed: list[Row] = []
    done = 0
    for group in groups:
        (row,) = batching.pack([group], row_tokens)
        row = dataclasses.replace(row, token_index=row.token_index + done)
        done += len(row.token_index)
        if packed and len(packed[-1].input_ids) + len(row.input_ids) <= row_tokens:
            packed[-1] = _beside(packed[-1], row)
        else:
            packed.append(row)
    return packed


def _beside(one: Row, other: Row) -> Row:
    start = len(one.input_ids)
    shifted = dataclasses.replace(
        other, loss_positions=other.loss_positions + start, prompt_ends=other.prompt_ends + start,
        prompt_index=other.prompt_index + len(one.groups),
    )  # fmt: skip
    pairs = ((getattr(one, field.name), getattr(shifted, field.name)) for field in dataclasses.fields(Row))
    return Row(*(a + b if isinstance(a, tuple) else np.concatenate([a, b]) for a, b in pairs))


def rows(model: PolicyModel, packed: list[Row]) -> np.ndarray:
    found = np.zeros(sum(len(row.token_index) for row in packed), np.float32)
    for row in packed:
        logprobs, _, _ = model(row)
        logprobs.mean().backward()
        found[row.token_index] = logprobs.detach().cpu().numpy()
    return found


def measure(path: str, folder: Path, shape: tuple[int, int, int], args: argparse.Namespace, answer) -> None:
    """Sends (seconds of the fastest pass, peak MiB, log-probs)."""
    torch.set_num_threads(args.threads)
    dtype, on_gpu = getattr(torch, args.dtype), args.device == "cuda"
    groups = [make_group(seed, *shape) for seed in range(args.groups)]
    alone = [Group(group.prompt_ids, (response,)) for group in groups for response in group.responses]
    row_tokens = max(args.row_tokens, shape[0] + shape[1])
    load = AutoModelForCausalLM.from_pretrained if path == "padded" else PolicyModel.load
    model = load(folder, dtype=dtype).to(args.device)
    run = {
        "padded": lambda: padded(model, groups, args.padded_batch),
        "packed": lambda: rows(model, side_by_side(alone, row_tokens)),
        "shared": lambda: rows(model, batching.pack(groups, row_tokens)),
    }[path]
    times = []
    for _ in range(args.repeats):
        began = time.monotonic()
        logprobs = run()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.monotonic() - began)
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    answer.send((min(times), peak / 2**20, logprobs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--shapes", nargs="+", default=["512,64,8", "1024,128,8", "2048,128,16"], help="P,R,K …")
    parser.add_argument("--groups", type=int, default=1, help="of each shape in one pass")
    parser.add_argument("--model", default="builtin:smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--row-tokens", type=int, default=4096, help="of a row: what a group takes, or prompts repeat")
    parser.add_argument("--padded-batch", type=int, default=4, help="sequences of the padded path at once")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    folder, found = resolve(args.model), []
    context = multiprocessing.get_context("spawn")
    for text in args.shapes:
        shape, row, logprobs = tuple(map(int, text.split(","))), {"shape": text}, {}
        for path in PATHS:
            here, there = context.Pipe()
            process = context.Process(target=measure, args=(path, folder, shape, args, there))
            process.start()
            there.close()
            try:
                row[f"{path}_seconds"], row[f"{path}_mib"], logprobs[path] = here.recv()
            except EOFError:
                sys.exit(f"{text}, {path}: its process was killed, as when memory is short: lower --padded-batch")
            process.join()
        row["gap"] = float(np.abs(logprobs["shared"] - logprobs["padded"]).mean())
        row["over_padded"] = row["padded_seconds"] / row["shared_seconds"]
        row["over_packed"] = row["packed_seconds"] / row["shared_seconds"]
        found.append(row)
        print(row, file=sys.stderr, flush=True)
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.threads} threads"
    table = Table(title=f"forward + backward, {args.groups} × (P, R, K), {args.dtype}, {device}")
    for title in ("P, R, K", *(f"{p} s (MiB)" for p in PATHS), "× padded", "× packed", "mean gap"):
        table.add_column(title, justify="right")
    for row in found:
        costs = (f"{row[f'{path}_seconds']:.3g} ({row[f'{path}_mib']:,.0f})" for path in PATHS)
        table.add_row(
            row["shape"], *costs, f"{row['over_padded']:.2f}", f"{row['over_packed']:.2f}", f"{row['gap']:.4f}"
        )
    Console(width=120).print(table)
    if args.json:
        print(json.dumps({"groups": args.groups, "dtype": args.dtype, "device": device, "rows": found}))


if __name__ == "__main__":
    main()
