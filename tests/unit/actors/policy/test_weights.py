"""Packed weights: what is unpacked is what was packed, however it travelled, and damage on the way shows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.policy import sums, weights
from actors.policy.weights import (
    ALIGNMENT,
    BaseMissing,
    Bucket,
    Delta,
    checksum,
    difference,
    differs,
    digests,
    pack,
    restore,
    sha256_of,
    unpack,
)

CPU = torch.device("cpu")
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int8, torch.int64]


@st.composite
def models(draw) -> dict[str, torch.Tensor]:
    """Parameters of any type and shape: scalars, norms and matrices, some of them views that are not contiguous."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    tensors = {}
    for number in range(draw(st.integers(1, 6))):
        shape = draw(st.lists(st.integers(1, 9), max_size=3))
        tensor = (100 * torch.randn(shape, generator=generator)).to(draw(st.sampled_from(DTYPES)))
        tensors[f"{number}.{draw(st.sampled_from(['weight', 'bias']))}"] = tensor.mT if len(shape) > 1 else tensor
    return tensors


@given(models(), st.integers(1, 1000), st.booleans(), st.booleans())
def test_unpacking_gives_back_every_tensor_in_order(tensors, bucket_bytes, kept, by_card):
    """by_card: on the way of tensors that lie on a card, though these do not."""
    with pytest.MonkeyPatch.context() as patch:
        if by_card:
            patch.setattr(weights, "_on_card", lambda tensor: True)
        buckets = list(pack(tensors.items(), bucket_bytes, 1, kept=kept))
    unpacked = [pair for one in buckets for pair in unpack(one.meta, torch.from_numpy(one.data))]
    assert [name for name, _ in unpacked] == list(tensors)
    for name, tensor in unpacked:
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name]), name
    assert all(one.checksum.startswith(sums.PREFIX) == by_card for one in buckets)
    assert not any(differs(one.data, one.checksum, CPU) for one in buckets)
    assert all(one.data.nbytes <= bucket_bytes or len(one.meta) == 1 for one in buckets)
    sizes = [one.data.nbytes for one in buckets]
    firsts = [-(-tensors[one.meta[0].name].nbytes // ALIGNMENT) * ALIGNMENT for one in buckets]
    assert all(full + following > bucket_bytes for full, following in zip(sizes, firsts[1:], strict=False))


@given(models(), st.integers(1, 1000))
def test_norms_have_the_digests_that_vllm_makes_of_them(tensors, bucket_bytes):
    norms = {name: one for name, one in tensors.items() if one.dim() == 1 and name.endswith(".weight")}
    found = digests(pack(tensors.items(), bucket_bytes, 1))
    assert found == {name: sha256_of(one) for name, one in norms.items()}


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {"large": torch.randn(300)}


PLACES = ("whole", "difference", "base", "restored")


@given(st.sampled_from(PLACES), st.integers(0), st.integers(0, 7), st.booleans())
def test_damage_on_the_way_changes_the_checksum_of_what_arrives(place, byte, bit, summed):
    """Of a version that travels whole, or as a difference from the one before; summed: its checksum is a card's."""

    def damaged(data: np.ndarray) -> np.ndarray:
        copy = data.copy()
        copy[byte % copy.size] ^= 1 << bit
        return copy

    generator = torch.Generator().manual_seed(0)
    (old,) = pack([("w", torch.randn(2000, generator=generator).to(torch.bfloat16))], 1 << 20, 1)
    new = moved(old, 0.02)
    if summed:
        new = dataclasses.replace(new, checksum=sums.of_bytes(torch.from_numpy(new.data)))
    sent = new if place == "whole" else difference(new, old)
    assert isinstance(sent, Delta) == (place != "whole")
    if place in ("whole", "difference"):
        sent = dataclasses.replace(sent, data=damaged(sent.data))
    held = dataclasses.replace(old, data=damaged(old.data)) if place == "base" else old
    try:
        received = restore(sent, held)
    except OSError:  # bits that Zstandard cannot unpack
        assert place == "difference"
        return
    data = damaged(received.data) if place == "restored" else received.data
    assert received.checksum == new.checksum
    assert (not differs(data, received.checksum, CPU)) == np.array_equal(data, new.data)
    assert place == "difference" or not np.array_equal(data, new.data)  # some bits of Zstandard's say nothing


@pytest.mark.parametrize(("bucket_bytes", "together"), [(2 * ALIGNMENT, [2, 2]), (2 * ALIGNMENT - 1, [1, 1, 1, 1])])
def test_a_bucket_is_filled_to_its_last_byte_and_knows_its_version(bucket_bytes, together):
    tensors = [(name, torch.zeros(ALIGNMENT, dtype=torch.uint8)) for name in "abcd"]
    buckets = list(pack(tensors, bucket_bytes, 7))
    assert [len(bucket.meta) for bucket in buckets] == together
    assert {bucket.version for bucket in buckets} == {7}


@pytest.mark.parametrize("bucket_bytes", [1, 1 << 20])
def test_packing_copies_unless_said_otherwise(tensors, bucket_bytes):
    flat = torch.zeros(64, dtype=torch.int64)  # as a bucket has them, so that they need not be copied
    tensors = {"large": tensors["large"], "first": flat[:32], "second": flat[32:]}
    buckets = list(pack(tensors.items(), bucket_bytes, 1))
    before = [bucket.data.copy() for bucket in buckets]
    for tensor in tensors.values():
        tensor += 1
    assert all(np.array_equal(bucket.data, data) for bucket, data in zip(buckets, before, strict=True))


def test_a_bucket_that_is_not_checked_has_no_checksum(tensors):
    assert {bucket.checksum for bucket in pack(tensors.items(), 1, 1, checked=False)} == {""}


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
    assert (received.data == new.data).all() and checksum(received.data) == new.checksum
    for arrived in (sent, received):
        assert (arrived.meta, arrived.version, arrived.checksum) == (new.meta, new.version, new.checksum)


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


@pytest.mark.parametrize(
    "last",
    [lambda flat: flat[40:56], lambda flat: flat[32:44], lambda flat: flat[32:48].view(2, 8).T],
    ids=["after a gap", "with a rest", "transposed"],
)
def test_tensors_that_do_not_lie_as_in_a_bucket_are_copied(last):
    flat = torch.arange(96, dtype=torch.bfloat16)
    expected = last(flat).tolist()
    (bucket,) = pack([("a", flat[16:32]), ("b", last(flat))], 1 << 20, 1, kept=False)
    flat.zero_()
    assert dict(unpack(bucket.meta, torch.from_numpy(bucket.data)))["b"].tolist() == expected
