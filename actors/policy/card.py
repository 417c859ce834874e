"""Weights that pass between processes of one GPU without a copy, by CUDA's inter-process handles.

The learner tells where its parameters lie; an engine on the same card maps that memory and loads from it. Invariants:
an engine on another card refuses them; checksums are computed on the card, where the weights are read and again where
they arrive; the learner changes nothing until all engines have loaded (`ActorPool.publish` waits for them).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.multiprocessing.reductions import rebuild_cuda_tensor, reduce_tensor

from actors.policy.sums import sums
from actors.policy.weights import is_digested, sha256_of


@dataclass(frozen=True)
class Mapped:
    """Where one tensor lies; what CUDA needs to open it is in `handle`, as vLLM's wire format can carry it."""

    name: str
    """Parameter name in Hugging Face format."""
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    handle: tuple[Any, ...]


@dataclass(frozen=True)
class CardWeights:
    """A version of the weights in the memory of a card."""

    card: str
    """Its UUID."""
    version: int
    tensors: tuple[Mapped, ...]
    checksums: tuple[int, ...]
    """Of each tensor; none in a version that is not checked."""
    digests: dict[str, str]
    """What vLLM's weights of one dimension must be, by name; none in a version that is not checked."""

    def update_info(self) -> dict[str, Any]:
        """For the engine's workers: plain numbers, texts and bytes."""
        rows = [[one.name, one.dtype, list(one.shape), list(one.stride), list(one.handle)] for one in self.tensors]
        return {"card": self.card, "version": self.version, "tensors": rows, "checksums": list(self.checksums)}


def share(named_tensors: Iterable[tuple[str, torch.Tensor]], version: int, checked: bool) -> CardWeights:
    """The tensors, all of one card, for other processes on it; they must stay as they are until these have loaded."""
    tensors = [(name, tensor.detach()) for name, tensor in named_tensors]
    torch.cuda.synchronize()  # what wrote them has ended
    return CardWeights(
        card=uuid(tensors[0][1].device),
        version=version,
        tensors=tuple(_mapped(name, tensor) for name, tensor in tensors),
        checksums=tuple(sums([tensor for _, tensor in tensors])) if checked else (),
        digests={name: sha256_of(one) for name, one in tensors if checked and is_digested(name, one.shape)},
    )


def _mapped(name: str, tensor: torch.Tensor) -> Mapped:
    _, (_, size, stride, offset, _, dtype, _, memory, *rest) = reduce_tensor(tensor)
    bytes_, start, _, counter, of_counter, event, waits = rest
    handle = (offset, memory, bytes_, start, counter, of_counter, event, waits)
    return Mapped(name, str(dtype).removeprefix("torch."), tuple(size), tuple(stride), handle)


def open_shared(update_info: dict[str, Any], device: torch.device) -> list[tuple[str, torch.Tensor]]:
    """(name, tensor) of each of `CardWeights.update_info`, in the learner's memory.

    Raises:
        ValueError: they are on another card.
    """
    if (here := uuid(device)) != update_info["card"]:
        raise ValueError(
            f"the learner's weights are on the card {update_info['card']}, this engine is on {here}: set "
            "learner.transfer=object_store"
        )
    return [(name, _opened(device, *row)) for name, *row in update_info["tensors"]]


def _opened(
    device: torch.device, dtype: str, shape: Sequence[int], stride: Sequence[int], handle: Sequence[Any]
) -> torch.Tensor:
    offset, memory, bytes_, start, counter, of_counter, event, waits = handle
    return rebuild_cuda_tensor(
        torch.Tensor, torch.Size(shape), tuple(stride), offset, torch.storage.TypedStorage, getattr(torch, dtype),
        device.index or 0, memory, bytes_, start, False, counter, of_counter, event, waits,
    )  # fmt: skip


def uuid(device: torch.device) -> str:
    return str(torch.cuda.get_device_properties(device).uuid)


def damaged(tensors: Sequence[tuple[str, torch.Tensor]], expected: Sequence[int]) -> Iterator[str]:
    """Names of those whose checksum is another."""
    for (name, _), wanted, found in zip(tensors, expected, sums([one for _, one in tensors]), strict=True):
        if wanted != found:
            yield name
