"""Packing weights into buckets: nothing is lost, and damage is noticed."""

from __future__ import annotations

import torch

from actors.weights import checksum, pack, unpack


def test_tensors_come_back_bit_for_bit():
    torch.manual_seed(0)
    wanted = {
        "embed": torch.randn(7, 5).to(torch.bfloat16),
        "odd": torch.arange(3, dtype=torch.uint8),  # leaves what follows at an odd offset
        "norm": torch.randn(5),
        "transposed": torch.randn(4, 6).T,
        "scalar": torch.tensor(2.5, dtype=torch.float16),
    }
    buckets = list(pack(wanted.items(), bucket_bytes=200))
    found = {name: tensor for b in buckets for name, tensor in unpack(b.meta, torch.from_numpy(b.data))}
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_buckets_keep_to_their_size_unless_one_tensor_is_larger():
    sizes = [48, 48, 48, 304, 48]
    buckets = pack(((str(i), torch.zeros(size, dtype=torch.uint8)) for i, size in enumerate(sizes)), bucket_bytes=100)
    assert [bucket.data.nbytes for bucket in buckets] == [96, 48, 304, 48]


def test_one_changed_bit_changes_the_checksum():
    (bucket,) = pack([("w", torch.zeros(1000))], bucket_bytes=1 << 20)
    assert checksum(bucket.data) == bucket.checksum
    bucket.data[1234] ^= 1
    assert checksum(bucket.data) != bucket.checksum
