"""Checksums of weights that lie on a card, computed there: what is on a card is not copied to be checked.

Invariant: a sum is the same on every device, however the tensor is divided into parts. It tells damage and mixed-up
tensors from none, not an attacker.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

CHUNK = 1 << 24
"""Numbers of a tensor that a sum takes at once: their 64-bit copies are 128 MiB."""
MIX = 0x9E3779B97F4A7C15 - (1 << 64)
"""Odd multiplier of positions (Knuth 6.4), as a signed 64-bit number."""
WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int32}
"""By bytes of an element, what its bits are read as: of 64, the highest times an even position would be nothing."""


def sums(tensors: Iterable[torch.Tensor]) -> list[int]:
    """One 64-bit number per tensor: sum of (bits + 1) · position · MIX, modulo 2⁶⁴."""
    found = [_sum(tensor) for tensor in tensors]
    return torch.stack(found).tolist() if found else []


def _sum(tensor: torch.Tensor) -> torch.Tensor:
    words = tensor.detach().contiguous().flatten().view(WORDS[tensor.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for first in range(0, len(words), CHUNK):
        part = words[first : first + CHUNK].to(torch.int64)
        places = torch.arange(first + 1, first + 1 + len(part), device=tensor.device)
        total += ((part + 1) * places * MIX).sum()
    return total


PREFIX = "sum-"
"""Of a bucket's checksum that is such a sum; others are BLAKE3's."""


def of_bytes(data: torch.Tensor) -> str:
    """The checksum of a bucket (uint8 [bytes], a multiple of four), where it lies."""
    (found,) = sums([data.view(torch.int32)])
    return f"{PREFIX}{found % (1 << 64):016x}"
