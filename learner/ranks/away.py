"""Puts a process's tensors on a device into the memory of the host and back, so that another can have the device's.

Each storage gives up its memory and gets other memory later, while all tensors and their views, DeepSpeed's flat
buffers among them, stay what they are: nobody has to know who holds what. Invariants: what comes back is what went, to
the bit; in between nothing on the device is read or written; where there is no room for all, nothing goes.
"""

from __future__ import annotations

import gc

import torch
from torch import Tensor, UntypedStorage

from envs.errors import UserError

SMALLEST = 1 << 16
"""Bytes of a storage that is worth the way."""


class NoRoomAway(UserError):
    """The memory of the host is too small for what is on the device; the message says how much that is."""


class Away:
    """The tensors of this process on one kind of device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._gone: list[UntypedStorage] = []
        self._host: dict[int, Tensor] = {}
        """By the storage whose bytes it takes; kept, since pinning memory takes longer than the copy."""

    def put(self) -> int:
        """Have all tensors give up their memory; returns its bytes. Nothing happens where they have.

        Raises:
            NoRoomAway: they have not.
        """
        if self._gone:
            return 0
        going = self._storages()
        size = sum(storage.nbytes() for storage in going)
        before, self._host = self._host, {}
        for storage in going:
            host = before.get(storage._cdata)
            fits = host is not None and len(host) == storage.nbytes()
            self._host[storage._cdata] = host if fits else self._room(storage.nbytes(), size)
        for storage in going:
            self._host[storage._cdata].copy_(_bytes(storage), non_blocking=True)
        self._settle()
        self._gone = going
        for storage in going:
            storage.resize_(0)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return size

    def bring(self) -> None:
        """Have them as they were. Nothing happens where they are."""
        for storage in self._gone:
            host = self._host[storage._cdata]
            storage.resize_(len(host))
            _bytes(storage).copy_(host, non_blocking=True)
        self._settle()
        self._gone = []

    def _storages(self) -> list[UntypedStorage]:
        """Of all tensors on the device, once each."""
        tensors = [one for one in gc.get_objects() if issubclass(type(one), Tensor)]
        tensors += [one.grad for one in tensors if one.is_leaf and one.grad is not None]  # known to C++ alone
        own = {host.untyped_storage()._cdata for host in self._host.values()}
        found = {}
        for tensor in tensors:
            try:
                storage = tensor.untyped_storage()
            except (NotImplementedError, RuntimeError):  # sparse, or a wrapper of another
                continue
            here = storage.device.type == self._device.type  # not the tensor's: a compiler's fake ones name any device
            if here and storage.nbytes() >= SMALLEST and storage.resizable() and storage._cdata not in own:
                found[storage._cdata] = storage
        return list(found.values())

    def _room(self, size: int, of_all: int) -> Tensor:
        try:
            return torch.empty(size, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        except RuntimeError as error:
            raise NoRoomAway(
                f"the host has no room for the {of_all / 2**30:.1f} GiB that the learner has on its card "
                f"(actors.colocate): free memory there, or train adapters (learner.lora.rank): {error}"
            ) from error

    def _settle(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def _bytes(storage: UntypedStorage) -> Tensor:
    """uint8 [bytes] of the storage, not copied."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage, 0, (storage.nbytes(),))
