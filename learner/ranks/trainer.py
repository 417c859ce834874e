"""What one learner process does: DeepSpeed over the policy model, driven by `learner.ranks.handle.Learner`.

Invariants: every rank gets the same sequence of calls with equally many rows, since each backward pass and gather may
be a collective; gradients are sums over all ranks' rows; nothing here knows about Ray scheduling or batches.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from actors.policy.card import share
from actors.policy.weights import Bucket, difference, sha256_of
from actors.policy.weights import pack as pack_weights
from actors.pool import Receiver
from actors.runtime.remote import place
from envs.cache import compiled
from learner.algorithm import algorithms, batching, losses
from learner.algorithm.batching import Row
from learner.algorithm.policy_batch import PolicyRow
from learner.algorithm.policy_step import objective, row_loss
from learner.algorithm.policy_sums import PolicySums, combine
from learner.config.schema import Config
from learner.model import value_head
from learner.model.probe import require_same_forward
from learner.ranks import beside, checkpoints, loading, training_state
from learner.ranks.away import Away
from learner.ranks.beside import STATE
from learner.ranks.heap import Heap
from learner.ranks.rank import Published
from learner.ranks.training_state import Slice

GATHER_BYTES = 1 << 28
"""Of parameters that ZeRO-3 gathers at once, or one that is larger."""
BETAS = (0.9, 0.95)
FILLER = batching.pack([batching.Group(np.zeros(1, np.int32), (np.zeros(1, np.int32),))], row_tokens=2)[0]
"""Run, with its loss times zero, by a rank that has fewer rows than another: the loss of the others' rows, since ZeRO-3
waits for ever where a rank's backward pass goes through other outputs than that of another."""
POLICY_FILLER = PolicyRow(FILLER, *np.zeros((3, 1), np.float32), current=np.zeros(1, bool))


@dataclass
class _Known:
    """What is known of the rows of a mini-batch while it is trained on, by their index: float32 [N] log-probs."""

    proximal: dict[int, Tensor]
    reference: list[Tensor]
    values: dict[int, Tensor] = field(default_factory=dict)
    """V(s) of each row's prompts, float32 [S], before it was trained on them."""


class Trainer:
    """One rank's part of the learner. `join` comes first, on all ranks at once."""

    def __init__(self, cfg: Config, model_dir: Path, rank: int) -> None:
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        os.environ |= compiled()
        torch.set_num_threads(max(1, math.ceil(cfg.learner.cpus)))
        self.cfg, self.model_dir, self.rank = cfg, model_dir, rank
        self._place = place(cfg.run.mode)
        self._algorithm = algorithms.named(cfg.rl.algorithm)
        self._lora: Any = None
        """`learner.model.lora`, where adapters are trained."""
        self._broadcaster: Any = None
        self._heap, self._writer = Heap(), beside.Writer()
        self._known: dict[int, _Known] = {}
        self._held: dict[int, dict[int, Tensor]] = {}
        self._published: list[Bucket] = []
        self._shared: list[tuple[str, Tensor]] = []
        """What lies on the card for engines there, until the next step: merged weights are nobody else's."""

    def join(self, host: str, port: int, deadline: float) -> None:
        """Enter the process group of all ranks and build what trains the policy."""
        learner = self.cfg.learner
        on_gpu = learner.gpus > 0
        if self.rank == 0:
            require_same_forward(self.model_dir, self.cfg.model.context)
        os.environ |= {
            "MASTER_ADDR": host, "MASTER_PORT": str(port), "RANK": str(self.rank),
            "WORLD_SIZE": str(learner.ranks), "LOCAL_RANK": "0",
        }  # fmt: skip
        # Only DeepSpeed's inference kernels use this operator; building it takes half a minute and a compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        # A rank that takes more than its share is told so, before an engine is.
        if 0 < learner.gpus < 1 and not self.cfg.actors.colocate:
            torch.cuda.set_per_process_memory_fraction(learner.gpus)
        deepspeed.init_distributed("nccl" if on_gpu else "gloo", timeout=timedelta(seconds=deadline), verbose=False)
        dtype = getattr(torch, self.cfg.model.dtype)
        config = loading.deepspeed_config(self.cfg)
        self.policy = loading.load(self.model_dir, dtype, self.rank, config, learner.gradient_checkpointing)
        if learner.lora.rank:
            from learner.model import lora  # and with it peft, which takes seconds and is not needed otherwise

            shape = learner.lora
            lora.attach(self.policy.model, shape.rank, shape.alpha, shape.targets, self.cfg.run.seed)
            for _, layer in lora.layers(self.policy.model):  # uses the parameters of its parts without calling these
                for parameter in layer.parameters():
                    deepspeed.zero.register_external_parameter(layer, parameter)
            self._lora = lora
        self.policy.train()
        self.deepspeed, *_ = deepspeed.initialize(
            model=self.policy,
            model_parameters=[parameter for parameter in self.policy.parameters() if parameter.requires_grad],
            optimizer=lambda parameters: torch.optim.AdamW(parameters, betas=BETAS, weight_decay=0.0, fused=True),
            config=config,
        )
        self.value = None
        if self._algorithm.value_head:
            width = self.policy.model.config.hidden_size
            self.value = value_head.ValueHead(width, self.cfg.rl.value_learning_rate, self.deepspeed.device)
        self._heap.give_back(now=True)  # loading takes more than what is loaded
        self._away = Away(self.deepspeed.device)
        self.reset_optimizer()  # at stage 0 DeepSpeed counts a step of its own, which would shrink the first real one

    def finetune_step(self, rows: Sequence[Row | None], tokens: int, rate: float) -> tuple[float, float]:
        """One optimiser step on the cross-entropy; returns this rank's part of the loss, and the gradient norm.

        tokens: response tokens of the batch over all ranks. None stands for a filler row.
        """

        def loss(_: int, row: Row) -> tuple[Tensor, float]:
            value = losses.cross_entropy(self.deepspeed(row)[0], tokens)
            return value, value.item()

        norm, parts = self._step(rows, FILLER, loss, rate)
        return sum(parts), norm

    @torch.no_grad()
    def loss(self, rows: Sequence[Row | None], tokens: int) -> float:
        """This rank's part of the mean cross-entropy; arguments as for `finetune_step`."""
        parts = [self.deepspeed(FILLER if row is None else row)[0] for row in rows]
        return sum(
            losses.cross_entropy(logprobs, tokens).item()
            for logprobs, row in zip(parts, rows, strict=True)
            if row is not None
        )

    @torch.no_grad()
    def hold_proximal(self, rows: Sequence[PolicyRow | None], part: int) -> None:
        """Keep the log-probs of a mini-batch under the weights as they are, for its first `policy_step`."""
        temperature = self.cfg.rl.temperature
        held = [self.deepspeed(FILLER if row is None else row.row, temperature)[0] for row in rows]
        self._held[part] = dict(enumerate(held))

    def policy_step(
        self, rows: Sequence[PolicyRow | None], rate: float, first: bool, part: int, entropy: float
    ) -> PolicySums:
        """One optimiser step on the policy loss; rows and rate as for `finetune_step`.

        first: whether this is the first pass over these rows; its log-probs are the proximal policy of the others, if
        none is held, and its V(s) their baseline: one that had learned from these rewards would take them off
        themselves; part: the number of their mini-batch; entropy: the weight of its bonus.
        """
        rl = self.cfg.rl
        if first:
            self._known[part] = _Known(
                self._held.pop(part, {}), [self._reference_logprobs(row) for row in rows] if rl.kl else []
            )
        known, seen = self._known[part], []

        def loss(index: int, row: PolicyRow) -> tuple[Tensor, PolicySums]:
            logprobs, entropies, features = self.deepspeed(row.row, rl.temperature)
            values = None
            if self.value:
                values = known.values.setdefault(index, self.value(features).detach())
                seen.append(value_head.seen(features, row))
            proximal = known.proximal.setdefault(index, logprobs.detach())
            reference = known.reference[index] if rl.kl else None
            policy_loss = self._algorithm.loss or losses.policy_loss
            return row_loss(row, logprobs, entropies, values, proximal, reference, objective(rl, entropy), policy_loss)

        norm, sums = self._step(rows, POLICY_FILLER, loss, rate)
        if self.value and first:
            self.value.learn(seen, rl.value_epochs)
        return combine([*sums, PolicySums(grad_norm=norm)])

    def hold_reference(self, folder: Path) -> None:
        """Load the reference policy of the KL term from what `keep_reference` wrote, frozen; sharded at ZeRO stage 3,
        where it is not the same model with other adapters."""
        if self._lora:
            self._lora.hold_reference(self.policy.model, folder)
            return
        config = loading.deepspeed_config(self.cfg)
        model = loading.load(folder, getattr(torch, self.cfg.model.dtype), self.rank, config)
        model.requires_grad_(False).eval()
        if self.deepspeed.zero_optimization_stage() == 3:
            model, *_ = deepspeed.initialize(model=model, config=config)
        self._reference = model.to(self.deepspeed.device)

    @torch.no_grad()
    def _reference_logprobs(self, row: PolicyRow | None) -> Tensor:
        """float32 [N] of a row; a rank without one takes part in the gathers of stage 3."""
        if self._lora:
            with self._lora.as_reference(self.policy.model):
                return self.deepspeed(FILLER if row is None else row.row, self.cfg.rl.temperature)[0]
        return self._reference(FILLER if row is None else row.row, self.cfg.rl.temperature)[0]

    def _step(
        self, rows: Sequence[Any], filler: Any, loss: Callable[[int, Any], tuple[Tensor, Any]], rate: float
    ) -> tuple[float, list[Any]]:
        """Backward through the loss of each row, then one optimiser step at `rate`.

        filler: a row in the place of None; loss: of the n-th row, (loss, figures). Returns the gradient norm, and the
        figures of all rows but fillers.
        """
        figures = []
        self._shared = []
        for group in self.deepspeed.basic_optimizer.param_groups:
            group["lr"] = rate
        for index, row in enumerate(rows):
            self.deepspeed.set_gradient_accumulation_boundary(index == len(rows) - 1)
            part, of_row = loss(index, filler if row is None else row)
            if row is None:
                part = part * 0.0
            else:
                figures.append(of_row)
            # DeepSpeed averages gradients over ranks; the losses are parts of one sum.
            self.deepspeed.backward(part * self.cfg.learner.ranks, scale_wrt_gas=False)
        norm = None
        if self.deepspeed.zero_optimization_stage() == 0:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.policy.parameters() if p.grad is not None])
        self.deepspeed.step()
        self._heap.give_back()
        return float(self.deepspeed.get_global_grad_norm() if norm is None else norm), figures

    def reset_optimizer(self) -> None:
        """Forget the moments: what follows optimises another loss."""
        for state in self.deepspeed.basic_optimizer.state.values():
            for value in state.values():
                value.zero_()

    def rest(self) -> None:
        """Give up the memory of the card until `wake`; all is kept in the memory of the host."""
        self._shared = []
        self._away.put()

    def wake(self) -> None:
        """Be as before `rest`."""
        self._away.bring()

    def publish(self, bucket_bytes: int, version: int, full: bool, checked: bool, on_card: bool) -> Published:
        """The weights in the object store; only rank 0 packs, the others take part in gathers.

        full: not as differences from the last ones published; checked: with checksums; on_card: where they lie in the
        memory of this GPU instead, for engines on it.
        """
        weights = self._named_weights(bucket_bytes)
        if self.rank:
            for _ in weights:
                pass
            return Published([], 0, 0)
        if on_card:
            size = sum(parameter.nbytes for _, parameter in self._named())
            self._shared = list(weights)
            return Published([self._place.put(share(self._shared, version, checked))], 0, size)
        kept = self.cfg.learner.full_every > 1  # the next version is sent as its difference from them
        before, self._published = [] if full else self._published, []
        published = Published([], 0, 0)
        for number, bucket in enumerate(pack_weights(weights, bucket_bytes, version, checked, kept)):
            began = time.monotonic()
            sent = difference(bucket, before[number]) if before else bucket
            published.making_seconds += time.monotonic() - began if before else 0.0
            published.buckets.append(self._place.put(sent))  # at once: it may lie in pinned memory, which is short
            published.sent_bytes += sent.data.nbytes
            published.full_bytes += bucket.data.nbytes
            self._published += [bucket] if kept else []
        return published

    def broadcast(self, receivers: Sequence[Receiver], version: int, checked: bool, deadline: float) -> Published:
        """The weights sent to the actors' engines; returns when all serve them."""
        from learner.ranks.broadcast import Broadcaster, Weights  # vLLM, which only this way to publish needs here

        if self._broadcaster is None:
            weights = Weights(self._named(), lambda: self._named_weights(GATHER_BYTES))
            self._broadcaster = Broadcaster(self.rank, weights)
        digests = {}
        if checked:
            norms = self._broadcaster.norms
            compared = self._gathered(((name, weight) for name, weight in self._named() if name in norms), GATHER_BYTES)
            digests = {name: sha256_of(tensor) for name, tensor in compared}
        if receivers:
            self._broadcaster.send(receivers, version, digests, deadline)
        size = sum(getattr(weight, "ds_numel", weight.numel()) * weight.element_size() for _, weight in self._named())
        return Published([], size, size)

    def save(self, folder: Path, state: dict[str, Any]) -> None:
        """Write what training goes on from, with `state`, and the Hugging Face folder; raises CheckpointError."""
        beside.write_state(folder, self.rank, training_state.files(self.rank, self._slices()), state)
        self.export(folder / checkpoints.HUGGING_FACE)
        if self._lora:
            self._write_adapter(folder / checkpoints.ADAPTER)

    def begin_save(self, folder: Path, state: dict[str, Any]) -> None:
        """As the first part of `save`, while training goes on: returns as soon as what is to be written is copied."""
        files = list(training_state.files(self.rank, self._slices(), copied=True))
        self._writer.begin(beside.write_state, folder, self.rank, files, state)

    def write_model(self, folder: Path) -> None:
        """As the rest of `save`, while training goes on, once all ranks have written their state."""
        if self.rank == 0:
            shapes = [(name, checkpoints.whole(parameter)) for name, parameter in self._named()]
            self._writer.begin(beside.write_model, folder, self.policy.model, shapes, self.model_dir)

    def writing(self) -> bool:
        """Whether that goes on."""
        return self._writer.busy()

    def finish_write(self) -> None:
        """It has ended; raises CheckpointError where it failed."""
        self._writer.ended()

    def export(self, folder: Path) -> None:
        """Write the policy as a Hugging Face folder; raises CheckpointError."""
        with checkpoints.naming(folder.parent, "write"):
            weights = self._named_weights(GATHER_BYTES)
            try:
                if self.rank == 0:
                    checkpoints.write_hugging_face(folder, self.policy.model, self._named(), weights, self.model_dir)
            finally:  # every rank takes part in every gather, also where one cannot write
                for _ in weights:
                    pass

    def keep_reference(self, folder: Path) -> None:
        """Write what `hold_reference` needs of the policy as it is; raises CheckpointError."""
        if self._lora:
            self._write_adapter(folder)
        else:
            self.export(folder)

    def _write_adapter(self, folder: Path) -> None:
        """Write the adapters as a folder of peft's; raises CheckpointError."""
        with checkpoints.naming(folder.parent, "write"):
            named = self._lora.adapter_parameters(self.policy.model)
            values = {name: tensor.cpu() for name, tensor in self._gathered(named, GATHER_BYTES) if self.rank == 0}
            if self.rank == 0:
                self._lora.write(folder, self.policy.model, values, self.cfg.model.path)

    def load(self, folder: Path) -> dict[str, Any]:
        """Take over the state that `save` wrote, on whatever ranks; returns its `state`. Raises CheckpointError."""
        with checkpoints.naming(folder, "read"), training_state.Saved(folder / STATE) as saved:
            training_state.restore(saved, self._slices(saved.names()))
            training_state.compute_with(saved, self.deepspeed, self.policy.model.named_parameters())
            return training_state.about(folder / STATE)

    def _slices(self, known: Container[str] | None = None) -> Iterator[tuple[Slice, Optimizer]]:
        """What this rank trains, with its optimiser. A value head that a checkpoint does not know begins anew."""
        for one in training_state.slices(self.deepspeed, self.policy.model.named_parameters()):
            yield one, self.deepspeed.basic_optimizer
        for one in training_state.whole(self.value.named() if self.value else ()):
            if known is None or one.name in known:
                yield one, self.value.optimizer

    def _named_weights(self, gather_bytes: int) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, tensor) of every parameter, adapters merged; a tied output head is not repeated.

        Under ZeRO-3 about `gather_bytes` are gathered at once and copied, and all ranks have left the gather before
        anything is yielded: a consumer that stops early cannot leave other ranks waiting in it. Rank 0 alone is given
        them.
        """
        yield from self._gathered(self._named(), gather_bytes)

    def _named(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """(Hugging Face name, parameter) of all but adapters."""
        model = self.policy.model
        return self._lora.weights(model) if self._lora else model.named_parameters()

    def _gathered(
        self, named: Iterator[tuple[str, torch.nn.Parameter]], gather_bytes: int
    ) -> Iterator[tuple[str, Tensor]]:
        added = self._lora.adapters(self.policy.model) if self._lora else {}

        def value(parameter: torch.nn.Parameter) -> Tensor:
            with torch.no_grad():
                return self._lora.merged(parameter, *added[parameter]) if parameter in added else parameter.detach()

        if self.deepspeed.zero_optimization_stage() < 3:
            yield from ((name, value(parameter)) for name, parameter in named)
            return
        for part in _parts(named, gather_bytes):
            parameters = [parameter for _, parameter in part]
            of_adapters = [one for parameter in parameters if parameter in added for one in added[parameter][:2]]
            with deepspeed.zero.GatheredParameters(parameters + of_adapters):
                copies = deque((name, value(parameter).clone()) for name, parameter in part) if self.rank == 0 else ()
            while copies:  # which are freed as they are used, before the next are made
                yield copies.popleft()


def _parts(named: Iterator[tuple[str, Tensor]], size: int) -> Iterator[list[tuple[str, Tensor]]]:
    part, used = [], 0
    for name, parameter in named:
        part.append((name, parameter))
        used += parameter.ds_numel * parameter.element_size()
        if used >= size:
            yield part
            part, used = [], 0
    if part:
        yield part
