"""Checksums of weights that lie on a card; what opens them needs one."""

from __future__ import annotations

import pytest
import torch

from actors.policy import card, sums


@pytest.fixture
def tensors() -> list[tuple[str, torch.Tensor]]:
    torch.manual_seed(0)
    return [(str(dtype), torch.randn(13, 7).to(dtype)) for dtype in (torch.bfloat16, torch.float32, torch.float64)]


def test_what_is_unchanged_is_not_damaged(tensors):
    found = sums.sums(tensor for _, tensor in tensors)
    assert len(set(found)) == 3
    assert not list(card.damaged([(name, tensor.clone()) for name, tensor in tensors], found))


@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize("position", [0, 45, 89, 90])
def test_one_changed_bit_of_one_tensor_names_it(tensors, position, bit):
    """The lowest, or the highest of the highest byte."""
    found = sums.sums(tensor for _, tensor in tensors)
    for name, tensor in tensors:
        size = tensor.element_size()
        data = tensor.view(torch.uint8).flatten()
        place = position * size + (size - 1 if bit else 0)
        data[place] ^= 1 << bit
        assert list(card.damaged(tensors, found)) == [name]
        data[place] ^= 1 << bit


def test_two_numbers_that_change_places_are_noticed(tensors):
    found = sums.sums(tensor for _, tensor in tensors)
    first = tensors[0][1]
    first[0, 0], first[5, 5] = first[5, 5].clone(), first[0, 0].clone()
    assert list(card.damaged(tensors, found)) == ["torch.bfloat16"]


def test_a_long_tensor_has_the_checksum_of_its_parts_in_any_division(monkeypatch, tensors):
    whole = sums.sums(tensor for _, tensor in tensors)
    monkeypatch.setattr(sums, "CHUNK", 5)
    assert sums.sums(tensor for _, tensor in tensors) == whole
