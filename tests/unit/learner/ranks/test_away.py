"""Tensors that wait elsewhere come back as they were, with all that shares their memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import hashlib
import torch
from torch._subclasses import FakeTensorMode
from learner.ranks.away import Away, NoRoomAway

torch.set_num_threads(1)

def hashed(tensor):
    copy = tensor.detach().clone()  # what numpy has seen is never resized
    return hashlib.sha256(copy.numpy().tobytes()).digest()

flat = torch.randn(300_000)
views = [flat[:1000].view(10, 100), flat[1000:].view(-1, 10).T]
model = torch.nn.Linear(300, 400, bias=False)
model(torch.randn(5, 300)).sum().backward()
optimizer = torch.optim.AdamW(model.parameters())
optimizer.step()
small, numpy = torch.randn(10), torch.from_numpy(__import__("numpy").ones(1 << 20))
kept = [hashed(one) for one in (flat, *views, model.weight.data, model.weight.grad, numpy)]
state = optimizer.state[model.weight]["exp_avg"]
moment = hashed(state)
with FakeTensorMode():
    fake = torch.empty(300_000)  # compilers keep such
mapped = []
torch.func.vmap(lambda row: mapped.append(row) or row + 1)(torch.zeros(3, 100_000))
away = Away(torch.device("cpu"))

empty, rooms = torch.empty, [0, 1, 2]
def short(*size, **kind):
    if not rooms:
        raise RuntimeError("out of memory")
    rooms.pop()
    return empty(*size, **kind)

torch.empty = short
try:
    away.put()
except NoRoomAway as error:
    assert "the host has no room for the 0." in str(error) and "actors.colocate" in str(error), error
else:
    raise AssertionError("there was room")
torch.empty = empty
away.bring()
assert hashed(flat) == kept[0] and hashed(model.weight) == kept[3]

for _ in range(3):
    size = away.put()
    assert size >= flat.nbytes + 3 * model.weight.nbytes, size
    assert away.put() == 0
    assert flat.untyped_storage().nbytes() == model.weight.untyped_storage().nbytes() == 0
    assert small.sum().isfinite() and numpy.sum() == 1 << 20
    away.bring()
    away.bring()
    for one, was in zip((flat, *views, model.weight.data, model.weight.grad, numpy), kept, strict=True):
        assert hashed(one) == was
    assert fake.shape == (300_000,) and len(mapped) == 1
    assert hashed(state) == moment
assert views[0].untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
flat[0] = 7
assert views[0][0, 0] == 7
"""


@pytest.mark.slow
def test_what_comes_back_is_what_went_and_shares_memory_as_before():
    """In a process of its own: it takes every tensor that there is."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
