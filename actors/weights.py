"""Model weights as packed buckets: how the learner hands them out and actors pass them on.

A bucket is one byte array with the place, type and shape of each tensor in it, so a whole model is a handful of
objects in Ray's store, fetched once per node. Invariant: a bucket carries the checksum of its bytes from where it was
packed to where it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

import blake3
import numpy as np
import torch

ALIGNMENT = 16
"""Bytes; a tensor starts at a multiple of it, since torch views bytes as a type only at a multiple of its size."""


@dataclass(frozen=True)
class TensorMeta:
    """Where one tensor lies in its bucket."""

    name: str
    """Parameter name in Hugging Face format."""
    dtype: str
    """Name of the torch dtype, such as `bfloat16`."""
    shape: tuple[int, ...]
    offset: int
    """First byte in the bucket."""


@dataclass(frozen=True)
class Bucket:
    """Several tensors, one after the other."""

    meta: tuple[TensorMeta, ...]
    data: np.ndarray
    """uint8 [bytes]."""
    checksum: str
    """BLAKE3 of `data`, hexadecimal."""


def pack(named_tensors: Iterable[tuple[str, torch.Tensor]], bucket_bytes: int) -> Iterator[Bucket]:
    """Buckets of about `bucket_bytes` (a larger tensor gets one of its own), in the order given.

    named_tensors: (name, tensor of any shape, dtype and device).
    """
    waiting: list[tuple[str, torch.Tensor]] = []
    size = 0
    for name, tensor in named_tensors:
        if waiting and size + _padded(tensor) > bucket_bytes:
            yield _bucket(waiting)
            waiting, size = [], 0
        waiting.append((name, tensor))
        size += _padded(tensor)
    if waiting:
        yield _bucket(waiting)


def _bucket(named_tensors: list[tuple[str, torch.Tensor]]) -> Bucket:
    data = np.zeros(sum(_padded(tensor) for _, tensor in named_tensors), dtype=np.uint8)
    meta, offset = [], 0
    for name, tensor in named_tensors:
        content = tensor.detach().contiguous().cpu().flatten().view(torch.uint8)
        data[offset : offset + content.numel()] = content.numpy()
        meta.append(TensorMeta(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), offset))
        offset += _padded(tensor)
    return Bucket(tuple(meta), data, checksum(data))


def _padded(tensor: torch.Tensor) -> int:
    """Bytes that a tensor takes in a bucket."""
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def unpack(meta: Iterable[TensorMeta], data: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) for each of `meta`, as views of `data` (uint8 [bytes])."""
    for item in meta:
        dtype = getattr(torch, item.dtype)
        raw = data[item.offset : item.offset + prod(item.shape) * dtype.itemsize]
        yield item.name, raw.view(dtype).view(item.shape)


def checksum(data: np.ndarray) -> str:
    return blake3.blake3(data.data).hexdigest()
