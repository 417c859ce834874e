"""Model weights as packed buckets: how the learner hands them out and actors pass them on.

A bucket is one byte array with the place, type and shape of each tensor in it, so a whole model is a handful of
objects in Ray's store, fetched once per node. Where few bits changed since the version before, it can travel as the
difference. Invariants: a difference is applied to the version that it was made from, or refused; where a bucket has a
checksum, it is that of its bytes where it was packed, however it travelled (`weights_engine` compares it with what
arrived).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import blake3
import numpy as np
import pyarrow
import torch

from actors.policy import sums

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
    version: int
    """Of the weights."""
    checksum: str
    """Of `data`: BLAKE3, hexadecimal, or the sum of `sums.of_bytes` where the weights lay on a card; empty in a version
    that is not checked."""


@dataclass(frozen=True)
class Delta:
    """A bucket as its difference from the one in its place a version before."""

    meta: tuple[TensorMeta, ...]
    data: np.ndarray
    """uint8: the bits that changed (exclusive or), Zstandard-compressed."""
    size: int
    """Bytes of the bucket."""
    version: int
    """Of the bucket."""
    checksum: str
    """Of the bucket."""
    base: int
    """Version of the bucket that it is the difference from."""


class BaseMissing(RuntimeError):
    """A difference from weights that are not there: full weights are needed."""


_ZSTD = pyarrow.Codec("zstd", compression_level=1)


def difference(new: Bucket, old: Bucket) -> Bucket | Delta:
    """`new` as the difference from `old` where that is smaller, otherwise as it is.

    An optimiser step changes each bfloat16 weight by at most a few units in its last place and most not at all.
    """
    if new.meta != old.meta:
        return new
    packed = np.frombuffer(_ZSTD.compress(np.bitwise_xor(new.data, old.data), asbytes=True), np.uint8)
    if packed.size >= new.data.size:
        return new
    return Delta(new.meta, packed, new.data.nbytes, new.version, new.checksum, old.version)


def restore(received: Bucket | Delta, old: Bucket | None) -> Bucket:
    """The bucket that was sent; old: the one in its place a version before, if there is one.

    Raises:
        BaseMissing: it is a difference from another one.
    """
    if isinstance(received, Bucket):
        return received
    if old is None or old.version != received.base:
        raise BaseMissing(f"version {received.version} came as its difference from {received.base}, which is not here")
    bits = np.frombuffer(_ZSTD.decompress(received.data, received.size), np.uint8)
    return Bucket(received.meta, np.bitwise_xor(bits, old.data), received.version, received.checksum)


def pack(
    named_tensors: Iterable[tuple[str, torch.Tensor]],
    bucket_bytes: int,
    version: int,
    checked: bool = True,
    kept: bool = True,
) -> Iterator[Bucket]:
    """Buckets of about `bucket_bytes` (a larger tensor gets one of its own), in the order given.

    named_tensors: (name, tensor of any shape, dtype and device); checked: give each a checksum; kept: they must not
    change with the tensors, so that tensors which lie in memory as a bucket has them are copied too.
    """
    coming: Callable[[], Bucket] | None = None
    for part in _parts(named_tensors, bucket_bytes):
        last, coming = coming, _begun(part, version, checked, kept)
        if last:
            yield last()  # whoever takes it does so while the next is on its way from the card
    if coming:
        yield coming()


def _parts(named_tensors: Iterable[tuple[str, torch.Tensor]], size: int) -> Iterator[list[tuple[str, torch.Tensor]]]:
    waiting: list[tuple[str, torch.Tensor]] = []
    used = 0
    for name, tensor in named_tensors:
        if waiting and used + _padded(tensor) > size:
            yield waiting
            waiting, used = [], 0
        waiting.append((name, tensor.detach()))
        used += _padded(tensor)
    if waiting:
        yield waiting


def _begun(
    named_tensors: list[tuple[str, torch.Tensor]], version: int, checked: bool, kept: bool
) -> Callable[[], Bucket]:
    """What gives the bucket; where the tensors lie on a card, they are on their way from it already."""
    meta, offset = [], 0
    for name, tensor in named_tensors:
        meta.append(TensorMeta(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), offset))
        offset += _padded(tensor)
    tensors = [tensor for _, tensor in named_tensors]
    if _on_card(tensors[0]):
        return _leaving(meta, tensors, offset, version, checked, kept)

    def bucket() -> Bucket:
        data = None if kept else _in_place(tensors)
        if data is None:
            data = _packed(meta, tensors, offset, torch.device("cpu")).numpy()
        return Bucket(tuple(meta), data, version, checksum(data) if checked else "")

    return bucket


def _packed(
    meta: Sequence[TensorMeta], tensors: Sequence[torch.Tensor], size: int, device: torch.device
) -> torch.Tensor:
    """uint8 [size]: the tensors in their places, on the device."""
    data = torch.zeros(size, dtype=torch.uint8, device=device)
    for item, tensor in zip(meta, tensors, strict=True):
        content = tensor.contiguous().flatten().view(torch.uint8)
        data[item.offset : item.offset + content.numel()] = content
    return data


def _on_card(tensor: torch.Tensor) -> bool:
    return tensor.is_cuda


def _leaving(
    meta: Sequence[TensorMeta], tensors: Sequence[torch.Tensor], size: int, version: int, checked: bool, kept: bool
) -> Callable[[], Bucket]:
    """A bucket that is packed and summed on the card, and copied at once into pinned memory: nobody waits for that
    before the bucket is asked for."""
    packed = _packed(meta, tensors, size, tensors[0].device)
    host = torch.empty(size, dtype=torch.uint8, pin_memory=packed.is_cuda)  # torch keeps what was pinned for the next
    host.copy_(packed, non_blocking=True)
    copied = torch.cuda.Event() if packed.is_cuda else None
    if copied:
        copied.record()

    def bucket() -> Bucket:
        if copied:
            copied.synchronize()
        data = host.numpy().copy() if kept else host.numpy()  # pinned memory is short, and what is kept may be all
        return Bucket(tuple(meta), data, version, sums.of_bytes(packed) if checked else "")

    return bucket


def _in_place(tensors: Sequence[torch.Tensor]) -> np.ndarray | None:
    """The memory of tensors that lie one after another as in a bucket (so does DeepSpeed lay out the parameters at ZeRO
    stages 1 and 2); None where they do not."""
    storage, end = tensors[0].untyped_storage(), tensors[0].data_ptr()
    for tensor in tensors:
        together = tensor.untyped_storage().data_ptr() == storage.data_ptr() and tensor.data_ptr() == end
        if not (together and tensor.is_cpu and tensor.is_contiguous() and tensor.nbytes == _padded(tensor)):
            return None
        end += tensor.nbytes
    start = tensors[0].data_ptr() - storage.data_ptr()
    return torch.empty(0, dtype=torch.uint8).set_(storage, start, (end - tensors[0].data_ptr(),)).numpy()


def _padded(tensor: torch.Tensor) -> int:
    """Bytes that a tensor takes in a bucket."""
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def unpack(meta: Iterable[TensorMeta], data: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) for each of `meta`, as views of `data` (uint8 [bytes])."""
    for item in meta:
        dtype = getattr(torch, item.dtype)
        raw = data[item.offset : item.offset + prod(item.shape) * dtype.itemsize]
        yield item.name, raw.view(dtype).view(item.shape)


def differs(data: np.ndarray, wanted: str, device: torch.device) -> str:
    """The checksum of a bucket's bytes where it is not the one that is wanted, otherwise empty.

    device: where a sum is computed.
    """
    summed = wanted.startswith(sums.PREFIX)
    found = sums.of_bytes(torch.from_numpy(data).to(device)) if summed else checksum(data)
    return "" if found == wanted else found


def checksum(data: np.ndarray) -> str:
    return blake3.blake3(data.data, max_threads=blake3.blake3.AUTO).hexdigest()


def digests(buckets: Iterable[Bucket]) -> dict[str, str]:
    """What vLLM's digests of the weights of one dimension must be, by name."""
    by_name = {}
    for bucket in buckets:
        for item in bucket.meta:
            if is_digested(item.name, item.shape):
                size = item.shape[0] * getattr(torch, item.dtype).itemsize
                by_name[item.name] = _sha256(bucket.data[item.offset : item.offset + size])
    return by_name


def is_digested(name: str, shape: Sequence[int]) -> bool:
    """Whether vLLM keeps a weight as it was sent: norms, which it does not fuse, split over GPUs or pack."""
    return len(shape) == 1 and name.endswith(".weight")


def sha256_of(tensor: torch.Tensor) -> str:
    """As vLLM digests its parameters."""
    return _sha256(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy())


def _sha256(data: np.ndarray) -> str:
    return hashlib.sha256(data.data).hexdigest()
