"""What training goes on from: float32 master weights and moments, which ranks of any number and ZeRO stage take over.

Each rank writes the slices that it keeps to files of its own, `rank_N-*.safetensors`, and rank 0 `about.json`. A slice
is a range of a flattened parameter, under the key `part|start|name`; a rank that reads puts the range that it keeps
together from slices, which are mapped rather than read into memory. Invariants: reading runs nothing that a file names;
the weights that a rank computes with are its master weights, rounded.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from learner.ranks.checkpoints import FILE_BYTES, CheckpointError

ABOUT = "about.json"
WEIGHT, MOMENTS, STEPS = "weight", ("exp_avg", "exp_avg_sq"), "step"
"""Parts of a slice, the last two as AdamW names them; and how it counts its steps."""


@dataclass(frozen=True)
class Slice:
    """The range of a flattened parameter that a rank keeps the state of."""

    name: str
    start: int
    count: int
    master: Tensor
    """float32, of this slice and perhaps others; the key of its state in the optimiser."""
    offset: int
    """In the flattened master."""
    whole: bool
    """All ranks keep the same."""

    def of(self, tensor: Tensor) -> Tensor:
        """Its range of a tensor in the form of the master."""
        return tensor.detach().view(-1)[self.offset : self.offset + self.count]


def slices(engine: Any, named: Iterable[tuple[str, nn.Parameter]]) -> Iterator[Slice]:
    """Those of this rank; engine: DeepSpeed's. A parameter that is not trained has none."""
    optimizer, stage = engine.optimizer, engine.zero_optimization_stage()
    masters = {}
    if hasattr(optimizer, "fp32_groups"):  # stage 0 in bfloat16
        groups = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        masters = {low: high for lows, highs in groups for low, high in zip(lows, highs, strict=True)}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        if stage == 3:
            group, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = parameter.ds_tensor.ds_numel * engine.global_rank
            if (count := min(parameter.ds_tensor.ds_numel, parameter.ds_numel - start)) > 0:
                yield Slice(name, start, count, optimizer.fp32_partitioned_groups_flat[group], offset, False)
        elif stage:
            if found := parameter._hp_mapping:  # other ranks have the rest
                (master,) = engine.basic_optimizer.param_groups[found.param_group_index]["params"]
                start, count = found.lp_fragment_address.start, found.lp_fragment_address.numel
                yield Slice(name, start, count, master, found.hp_fragment_address.start, False)
        else:
            yield Slice(name, 0, parameter.numel(), masters.get(parameter, parameter), 0, True)


def whole(named: Iterable[tuple[str, nn.Parameter]]) -> Iterator[Slice]:
    """Of parameters that every rank has in float32."""
    return (Slice(name, 0, one.numel(), one, 0, True) for name, one in named)


@dataclass(frozen=True)
class File:
    """What a rank writes into one of its files: hardly more than `FILE_BYTES`."""

    tensors: dict[str, Tensor]
    """In host memory, by their keys."""
    steps: dict[str, int]
    """By parameter."""


def files(rank: int, of_rank: Iterable[tuple[Slice, Optimizer]], copied: bool = False) -> Iterator[File]:
    """This rank's slices, made as they are asked for. What all ranks have is rank 0's to write.

    copied: training may go on before they are written.
    """
    tensors: dict[str, Tensor] = {}
    steps: dict[str, int] = {}
    for one, optimizer in of_rank:
        state = optimizer.state.get(one.master, {})
        if rank and one.whole:
            continue
        steps[one.name] = int(state.get(STEPS, 0))
        parts = {WEIGHT: one.master, **{name: state[name] for name in MOMENTS if name in state}}
        for part, tensor in parts.items():
            tensors[f"{part}|{one.start}|{one.name}"] = one.of(tensor).to("cpu", copy=copied)
        if sum(tensor.nbytes for tensor in tensors.values()) > FILE_BYTES:
            yield File(tensors, steps)
            tensors, steps = {}, {}
    if tensors:
        yield File(tensors, steps)


def write(folder: Path, rank: int, of_rank: Iterable[File], about: dict[str, Any]) -> None:
    """Write this rank's files into a folder that is there, and rank 0 what it is `about`; a file that is written is
    emptied, so that memory holds no more of them than before."""
    for number, file in enumerate(of_rank):
        save_file(file.tensors, folder / f"rank_{rank}-{number:04d}.safetensors", {STEPS: json.dumps(file.steps)})
        file.tensors.clear()
    if rank == 0:
        (folder / ABOUT).write_text(json.dumps(about))


def about(folder: Path) -> dict[str, Any]:
    """What rank 0 said of it."""
    return json.loads((folder / ABOUT).read_text())


class Saved:
    """What `write` wrote, of all ranks together; to be used as a context."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._stack = folder, contextlib.ExitStack()
        self._found: dict[str, list[tuple[int, int, Any, str]]] = defaultdict(list)
        self._steps: dict[str, int] = {}

    def __enter__(self) -> Saved:
        if not (files := sorted(self._folder.glob("rank_*.safetensors"))):
            raise CheckpointError(f"{self._folder} has no rank_*.safetensors")
        for path in files:
            file = self._stack.enter_context(safe_open(path, framework="pt"))
            self._steps |= json.loads(file.metadata()[STEPS])
            for key in file.offset_keys():
                part, start, name = key.split("|", 2)
                end = int(start) + file.get_slice(key).get_shape()[0]
                self._found[f"{part}|{name}"].append((int(start), end, file, key))
        return self

    def __exit__(self, *_: object) -> None:
        self._found.clear()
        self._stack.close()

    def names(self) -> set[str]:
        return set(self._steps)

    def steps(self, name: str) -> int:
        return self._steps[name]

    def range(self, part: str, name: str, start: int, count: int) -> Tensor:
        """float32 [count]. Raises CheckpointError where not all of it is there."""
        wanted, had = torch.empty(count), 0
        for begin, end, file, key in self._found[f"{part}|{name}"]:
            first, last = max(begin, start), min(end, start + count)
            if first < last:
                wanted[first - start : last - start] = file.get_slice(key)[first - begin : last - begin]
                had += last - first
        if had != count:
            raise CheckpointError(
                f"{self._folder} has {had} of {count} elements of {part} {name}: it is another model's"
            )
        return wanted


def restore(saved: Saved, of_rank: Iterable[tuple[Slice, Optimizer]]) -> None:
    """Take over master weights, moments and the count of steps. Raises CheckpointError.

    The weights that are computed with are rounded from the masters by `compute_with`.
    """
    for one, optimizer in of_rank:
        one.of(one.master).copy_(saved.range(WEIGHT, one.name, one.start, one.count))
        steps, state = saved.steps(one.name), optimizer.state[one.master]
        if STEPS not in state:  # plain AdamW makes it at its first step
            state[STEPS] = torch.zeros((), device=one.master.device)
            state |= {part: torch.zeros_like(one.master) for part in MOMENTS}
        state[STEPS].fill_(steps)
        for part in MOMENTS:
            values = saved.range(part, one.name, one.start, one.count) if steps else torch.zeros(one.count)
            one.of(state[part]).copy_(values)


def compute_with(saved: Saved, engine: Any, named: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Round the master weights to those that ranks compute with."""
    parameters = {name: one for name, one in named if one.requires_grad}
    if engine.zero_optimization_stage() < 3:
        for name, one in parameters.items():
            one.detach().view(-1).copy_(saved.range(WEIGHT, name, 0, one.numel()))
        return
    for part in slices(engine, parameters.items()):
        parameters[part.name].ds_tensor[: part.count].copy_(part.of(part.master))
    if gathered := engine.optimizer.persistent_parameters:  # small ones stay whole
        gathered[0].partition(gathered)
        gathered[0].all_gather(gathered)
