"""Damage at each place where weights are copied, from the learner's bucket to what the engine serves, is noticed.

Only vLLM's engine is another: it loads what the real worker's side reads from the memory file. Whatever happens to any
bit, a checked version is either refused, or served as it was packed.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.policy.errors import PolicyDead, PolicyError
from actors.policy.policy import Policy
from actors.policy.weights import Bucket, difference, pack, restore
from learner.config.schema import Config

PLACES = ("packed", "difference", "base", "restored", "memory file", "loaded", "nowhere")
Damage = Callable[[np.ndarray], np.ndarray]


class Engine:
    """In the place of vLLM's processes."""

    errored, ended, device = False, False, torch.device("cpu")

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}
        self.in_file: Damage | None = None
        self.in_model: Damage | None = None
        self.paused, self.version = False, ""

    async def pause_generation(self, mode: str, clear_cache: bool) -> None:
        assert mode == "keep" and not clear_cache
        self.paused = True

    async def resume_generation(self) -> None:
        self.paused = False

    async def collective_rpc(self, method: str, args: tuple = ()) -> list[Any]:
        from actors.policy.weights_engine import ObjectStoreUpdate, WorkerExtension

        if self.in_file and method == "verify_weights":
            *_, last = ObjectStoreUpdate(**args[0]).data()
            last[:] = self.in_file(last)
        worker = WorkerExtension()
        worker.model_runner, worker.device = SimpleNamespace(get_model=lambda: self), self.device
        return [getattr(worker, method)(*args)]

    def named_parameters(self) -> Iterable[tuple[str, torch.Tensor]]:
        return self.weights.items()

    async def start_weight_update(self) -> None:
        assert self.paused

    async def update_weights(self, request: Any) -> None:
        from actors.policy.weights_engine import ObjectStoreUpdate

        self.weights = {
            name: one.clone() for name, one in ObjectStoreUpdate(**request.update_info).tensors(self.device)
        }
        if self.in_model:
            norm = self.weights["norm.weight"].view(torch.uint8).numpy()
            norm[:] = self.in_model(norm)

    async def finish_weight_update(self, version: str) -> None:
        self.version = version

    def shutdown(self) -> None:
        self.ended = True


@dataclasses.dataclass
class Actor:
    """Its policy, and the buckets of the version that it serves."""

    policy: Policy
    engine: Engine
    held: list[Bucket]

    def receive(self, sent: Sequence[Any], version: int, damage_restored: Damage | None) -> None:
        """As `actors.actor.Actor.receive`."""
        weights = [restore(one, old) for one, old in zip(sent, self.held or [None] * len(sent), strict=True)]
        if damage_restored:
            weights[-1] = dataclasses.replace(weights[-1], data=damage_restored(weights[-1].data))
        asyncio.run(self.policy.update_weights(weights, version))
        self.held = weights


def model(seed: int, base: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """As another, with few other bits, where there is one."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"embed.weight": (40, 30), "norm.weight": (30,), "head.weight": (40, 30)}
    fresh = {name: torch.randn(shape, generator=generator).to(torch.bfloat16) for name, shape in shapes.items()}
    if base is None:
        return fresh
    return {name: torch.where(one > 2, one, base[name]) if "norm" not in name else one for name, one in fresh.items()}


def packed(tensors: dict[str, torch.Tensor], version: int) -> list[Bucket]:
    buckets = list(pack(tensors.items(), 2500, version))
    assert len(buckets) == 2 and "norm.weight" in [one.name for one in buckets[0].meta + buckets[1].meta]
    return buckets


def actor() -> Actor:
    cfg = Config()
    policy, engine = Policy("actor-7", "", cfg, version=0), Engine()
    policy._engine = engine
    return Actor(policy, engine, [])


@pytest.fixture(scope="module")
def living() -> Iterator[list[Actor]]:
    """The actor that takes version after version until its engine is ended: then another."""
    yield [actor()]


@settings(deadline=None, max_examples=70)
@given(st.sampled_from(PLACES), st.integers(0), st.integers(0, 7), st.integers(0, 100))
def test_damage_at_any_place_is_noticed(living, place, byte, bit, seed):
    def damaged(data: np.ndarray) -> np.ndarray:
        copy = data.copy()
        copy[byte % copy.size] ^= 1 << bit
        return copy

    if living[0].engine.ended:
        living[0] = actor()
    one = living[0]
    one.engine.in_file = one.engine.in_model = None
    before, after = model(seed), model(seed + 1, base=model(seed))
    old = packed(before, one.policy.version + 1)
    one.receive(old, one.policy.version + 1, None)
    served = one.policy.version
    assert all(torch.equal(one.engine.weights[name], tensor) for name, tensor in before.items())

    new = packed(after, served + 1)
    sent: list[Any] = new if place == "packed" else [difference(b, a) for b, a in zip(new, old, strict=True)]
    if place in ("packed", "difference"):
        sent[-1] = dataclasses.replace(sent[-1], data=damaged(sent[-1].data))
    if place == "base":
        one.held[-1] = dataclasses.replace(one.held[-1], data=damaged(one.held[-1].data))
    if place == "memory file":
        one.engine.in_file = damaged
    if place == "loaded":
        one.engine.in_model = damaged
    try:
        one.receive(sent, served + 1, damaged if place == "restored" else None)
    except PolicyDead as error:
        assert place == "loaded" and one.engine.ended
        assert str(error).startswith("actor-7: vLLM did not load weight version")
        assert "other values of norm.weight" in str(error)
    except (PolicyError, OSError) as error:
        assert place not in ("loaded", "nowhere") and not one.engine.ended
        assert isinstance(error, OSError) == (place == "difference" and "damaged" not in str(error))
        assert isinstance(error, OSError) or "is damaged: bucket 1" in str(error)
        assert one.policy.version == served and one.engine.version == str(served)
        assert all(torch.equal(one.engine.weights[name], tensor) for name, tensor in before.items())
    else:
        assert place in ("difference", "nowhere"), "nobody noticed"
        assert one.policy.version == served + 1 and one.engine.version == str(served + 1)
        assert all(torch.equal(one.engine.weights[name], tensor) for name, tensor in after.items())
    assert one.engine.ended or not one.engine.paused


def test_what_is_not_checked_is_served_without_looking():
    one, weights = actor(), model(0)
    buckets = [dataclasses.replace(bucket, checksum="") for bucket in packed(weights, 1)]
    one.engine.collective_rpc = None
    one.receive(buckets, 1, None)
    assert all(torch.equal(one.engine.weights[name], tensor) for name, tensor in weights.items())


def test_a_bucket_that_lost_its_checksum_is_damaged():
    one, (first, second) = actor(), packed(model(0), 1)
    with pytest.raises(PolicyError, match="weight version 1 is damaged: bucket 0"):
        one.receive([dataclasses.replace(first, checksum=""), second], 1, None)
    assert not one.engine.weights and not one.engine.ended


def test_an_older_version_does_not_take_the_place_of_a_newer():
    one = actor()
    one.receive(packed(model(0), 5), 5, None)
    one.receive(packed(model(1), 4), 4, None)
    assert one.policy.version == 5 and one.engine.version == "5"
    assert torch.equal(one.engine.weights["norm.weight"], model(0)["norm.weight"])


def test_an_engine_of_whose_weights_none_can_be_compared_is_refused():
    one = actor()

    one.engine.named_parameters = lambda: [("language_model.norm.weight", torch.ones(30))]
    with pytest.raises(PolicyDead, match=r"none of norm\.weight .*learner\.check_every=0"):
        one.receive(packed(model(0), 1), 1, None)
