"""Packed weights: what is unpacked is what was packed, and damage shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actors.policy.weights import BaseMissing, Bucket, Delta, checksum, difference, pack, restore, unpack


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
    buckets = list(pack(tensors.items(), bucket_bytes, 1))
    unpacked = [pair for b in buckets for pair in unpack(b.meta, torch.from_numpy(b.data))]
    assert [name for name, _ in unpacked] == list(tensors)
    for name, tensor in unpacked:
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name]), name


def test_a_bucket_is_over_its_size_only_by_a_single_tensor(tensors):
    buckets = list(pack(tensors.items(), 200, 1))
    assert all(bucket.data.nbytes <= 200 or len(bucket.meta) == 1 for bucket in buckets)
    assert max(len(bucket.meta) for bucket in buckets) > 1


def test_one_flipped_bit_changes_the_checksum(tensors):
    (bucket,) = pack(tensors.items(), 1 << 20, 1)
    assert checksum(bucket.data) == bucket.checksum
    damaged = bucket.data.copy()
    damaged[len(damaged) // 2] ^= 1
    assert checksum(damaged) != bucket.checksum


def test_packing_copies(tensors):
    (bucket,) = pack({"large": tensors["large"]}.items(), 1 << 20, 1)
    before = bucket.data.copy()
    tensors["large"] += 1
    assert np.array_equal(bucket.data, before)


def moved(bucket: Bucket, share: float) -> Bucket:
    """With the last bit of that share of its bytes flipped."""
    data = bucket.data.copy()
    places = np.random.default_rng(0).choice(data.size, int(share * data.size), replace=False)
    data[places] ^= 1
    return Bucket(bucket.meta, data, bucket.version + 1, checksum(data))


def test_a_difference_is_small_where_little_changed_and_gives_the_very_bytes():
    (old,) = pack([("w", torch.randn(50_000).to(torch.bfloat16))], 1 << 20, 1)
    new = moved(old, 0.02)
    sent = difference(new, old)
    assert isinstance(sent, Delta) and sent.data.nbytes < 0.1 * new.data.nbytes
    received = restore(sent, old)
    assert (received.data == new.data).all()
    assert checksum(received.data) == new.checksum == received.checksum


def test_what_does_not_get_smaller_or_has_another_layout_travels_whole():
    (old,) = pack([("w", torch.randn(50_000))], 1 << 20, 1)
    (other,) = pack([("w", torch.randn(50_000))], 1 << 20, 1)
    (smaller,) = pack([("w", torch.randn(40_000))], 1 << 20, 1)
    scrambled = Bucket(old.meta, np.random.default_rng(0).integers(0, 256, old.data.size, np.uint8), 2, "c")
    assert difference(scrambled, other) is scrambled
    assert difference(smaller, old) is smaller
    assert restore(scrambled, None) is scrambled


def test_a_difference_from_another_version_is_refused():
    (old,) = pack([("w", torch.randn(50_000))], 1 << 20, 1)
    sent = difference(moved(old, 0.01), old)
    for base in (None, moved(old, 0.02)):
        with pytest.raises(BaseMissing, match="version 2 came as its difference from 1"):
            restore(sent, base)


def test_tensors_that_lie_as_in_a_bucket_are_not_copied_where_the_bucket_is_not_kept():
    flat = torch.arange(96, dtype=torch.bfloat16)
    together = [("a", flat[16:32].view(2, 8)), ("b", flat[32:64]), ("c", flat[64:72])]
    (copied,) = pack(together, 1 << 20, 1)
    (bucket,) = pack(together, 1 << 20, 1, kept=False)
    assert (bucket.meta, bucket.checksum) == (copied.meta, copied.checksum)
    assert bucket.data.ctypes.data == flat[16:].data_ptr() and np.array_equal(bucket.data, copied.data)


@pytest.mark.parametrize("last", [slice(40, 56), slice(32, 44)])
def test_tensors_with_a_gap_or_a_rest_are_copied(last):
    flat = torch.arange(96, dtype=torch.bfloat16)
    apart = [("a", flat[16:32]), ("b", flat[last])]
    (bucket,) = pack(apart, 1 << 20, 1, kept=False)
    flat.zero_()
    values = dict(unpack(bucket.meta, torch.from_numpy(bucket.data)))
    assert values["b"].tolist() == list(range(last.start, last.stop))
