"""vLLM's side of weight transfer; lives in the engine's worker processes.

They are no part of Ray, so the actor fetches the buckets and leaves them in a memory file that the workers map, or
hands on where they lie in the memory of the card; the tensors are loaded layer by layer, as vLLM's NCCL backend does,
which takes what the learner broadcasts. Importing this module (named by `worker_extension_cls`) registers the backend
and allows the kernels of `kernels`. Invariants: `verify_weights` runs before an update begins, so damaged bytes never
reach the model; the engine's processes do not outlive their actor, however and whenever that ends.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine, NCCLWeightTransferInitInfo
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, UnquantizedEmbeddingMethod

from actors.policy import card
from actors.policy import kernels as engine_kernels
from actors.policy.weights import TensorMeta, differs, is_digested, sha256_of, unpack

BACKEND = "object_store"
ACTOR_PID = "MLAGENT_ACTOR_PID"
"""Environment variable: process id of the actor whose engine this is."""


@dataclass
class ObjectStoreUpdate:
    """All buckets of a version."""

    path: str
    """Memory file that holds their bytes."""
    file_bytes: int
    buckets: list[tuple[int, int, str, list[list[Any]]]]
    """First byte in the file, end, checksum (empty: it is not checked), and of each tensor (name, dtype, shape, offset
    in the bucket)."""

    def data(self) -> Iterator[np.ndarray]:
        """uint8 [bytes] of each bucket, not copied."""
        file = _mapped(self.path, self.file_bytes)
        return (file[start:end] for start, end, *_ in self.buckets)

    def tensors(self, device: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) on the device; a bucket is copied to a card as a whole, and on a CPU not at all."""
        for data, (*_, described) in zip(self.data(), self.buckets, strict=True):
            meta = [TensorMeta(name, dtype, tuple(shape), offset) for name, dtype, shape, offset in described]
            yield from unpack(meta, torch.from_numpy(data).to(device))


class ActorWeightTransferEngine(NCCLWeightTransferEngine):
    """Loads buckets from a memory file of the same machine, and what is broadcast once it has joined a group."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        end_with(int(os.environ[ACTOR_PID]))

    def init_transfer_engine(self, init_info: NCCLWeightTransferInitInfo) -> None:
        self.shutdown()  # the group of actors that was before
        super().init_transfer_engine(init_info)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The base class then synchronises an accelerator, which a CPU engine does not have.
        if "path" in update_info:
            self.model.load_weights(ObjectStoreUpdate(**update_info).tensors(self.device))
        elif "card" in update_info:
            self.model.load_weights(iter(_on_card(update_info, self.device)))
        else:
            self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def finish_weight_update(self) -> None:
        super().finish_weight_update()
        renew_heads(self.model)
        OPENED.clear()


def renew_heads(model: torch.nn.Module) -> None:
    """Have heads that are tied to the embeddings serve their new weights: they receive no tensor of their own, so that
    vLLM's reload passes them over, and on the CPU go on with the copy that was packed of the old."""
    for layer in model.modules():
        if isinstance(layer, ParallelLMHead) and isinstance(layer.quant_method, UnquantizedEmbeddingMethod):
            layer.quant_method.process_weights_after_loading(layer)


class WorkerExtension:
    """Methods that vLLM adds to its worker, called by `collective_rpc`."""

    def verify_weights(self, update_info: dict[str, Any]) -> str | None:
        """What is wrong with the weights that are to be loaded; None if they are those that were packed or shared."""
        if "card" in update_info:
            tensors = _on_card(update_info, self.device)
            wrong = list(card.damaged(tensors, update_info["checksums"]))
            return f"{', '.join(wrong[:3])} differ from what the learner has" if wrong else None
        update = ObjectStoreUpdate(**update_info)
        for number, (data, (_, _, wanted, _)) in enumerate(zip(update.data(), update.buckets, strict=True)):
            if found := differs(data, wanted, self.device):
                return f"bucket {number}: its checksum is {found[:12]}…, not {wanted[:12]}…"
        return None

    def norm_digests(self) -> dict[str, str]:
        """By name, the SHA-256 of each parameter that is served as it was sent (`is_digested`)."""
        parameters = self.model_runner.get_model().named_parameters()
        return {name: sha256_of(one) for name, one in parameters if is_digested(name, one.shape)}


OPENED: dict[int, list[tuple[str, torch.Tensor]]] = {}
"""By version, the learner's tensors on this card, from when they are verified to when they are loaded: a handle is
opened once."""


def _on_card(update_info: dict[str, Any], device: torch.device) -> list[tuple[str, torch.Tensor]]:
    version = update_info["version"]
    if version not in OPENED:
        OPENED.clear()
        OPENED[version] = card.open_shared(update_info, device)
    return OPENED[version]


def end_with(actor_pid: int) -> None:
    """End the engine's processes as soon as the actor's process has ended.

    Raises:
        RuntimeError: it has already.
    """
    actor = os.pidfd_open(actor_pid)
    parent = os.getppid()
    if select.select([actor], [], [], 0)[0]:
        raise RuntimeError(f"the actor (process {actor_pid}) ended while its engine started")
    engine = [os.getpid()] if parent == actor_pid else [parent, os.getpid()]

    def watch() -> None:
        select.select([actor], [], [])
        for pid in engine:
            os.kill(pid, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


@functools.lru_cache(maxsize=1)
def _mapped(path: str, size: int) -> np.ndarray:
    """uint8 [size] of a file that the actor fills anew for each version: mapping it again would fault every page again.

    Writable only so that torch takes it.
    """
    return np.memmap(path, dtype=np.uint8, mode="r+", shape=(size,))


WeightTransferEngineFactory.register_engine(BACKEND, ActorWeightTransferEngine)
engine_kernels.allow()
