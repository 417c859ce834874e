"""Packed weights: what is unpacked is what was packed, and damage shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actors.weights import checksum, pack, unpack


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "odd": torch.randn(7, 3, generator=generator).to(torch.bfloat16),
        "transposed": torch.randn(4, 6, generator=generator).T,
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "counts": torch.arange(5, dtype=torch.int8),
        "large": torch.randn(300, generator=generator),
        "last": torch.ones(2, dtype=torch.float16),
    }


@pytest.mark.parametrize("bucket_bytes", [1, 100, 1 << 20])
def test_unpacking_gives_back_every_tensor_in_order(tensors, bucket_bytes):
    buckets = list(pack(tensors.items(), bucket_bytes))
    unpacked = [pair for b in buckets for pair in unpack(b.meta, torch.from_numpy(b.data))]
    assert [name for name, _ in unpacked] == list(tensors)
    for name, tensor in unpacked:
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name]), name


def test_a_bucket_is_over_its_size_only_by_a_single_tensor(tensors):
    buckets = list(pack(tensors.items(), 200))
    assert all(bucket.data.nbytes <= 200 or len(bucket.meta) == 1 for bucket in buckets)
    assert max(len(bucket.meta) for bucket in buckets) > 1


def test_one_flipped_bit_changes_the_checksum(tensors):
    (bucket,) = pack(tensors.items(), 1 << 20)
    assert checksum(bucket.data) == bucket.checksum
    damaged = bucket.data.copy()
    damaged[len(damaged) // 2] ^= 1
    assert checksum(damaged) != bucket.checksum


def test_packing_copies(tensors):
    (bucket,) = pack({"large": tensors["large"]}.items(), 1 << 20)
    before = bucket.data.copy()
    tensors["large"] += 1
    assert np.array_equal(bucket.data, before)
