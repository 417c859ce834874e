"""An actor whose engine only pretends: what it does at the same time."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import actors.policy.policy
from actors import acting
from actors.acting import Tried
from actors.actor import Actor
from actors.policy import weights
from actors.policy.policy import Sample
from actors.policy.weights import Bucket, difference, pack
from envs.records import Durations, Outcome, State, StepResult
from learner.config.schema import Config
from learner.run.acting import said
from learner.stream.states import StatePool
from learner.stream.stream import Cursor, Stream
from tests.unit import fake_run

PATIENCE = 30.0


class Serving:
    """In the place of the policy: keeps what it is given."""

    def __init__(self, *_: object) -> None:
        self.served: list[Bucket] = []

    async def update_weights(self, buckets: list[Bucket], version: int) -> None:
        self.served = buckets

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("count", "most", "in_hand"), [(1, 0, 12), (2, 0, 6), (1, 4, 3), (1, 12, 2)])
def test_an_actor_has_its_share_of_all_groups_in_hand_though_their_experiments_do_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, most: int, in_hand: int
) -> None:
    monkeypatch.setattr(actors.policy.policy, "Policy", Serving)
    cfg = Config()
    cfg.rl.states, cfg.rl.actions, cfg.rl.max_staleness = 4, 4, 2
    cfg.actors.sequences, cfg.actors.count, cfg.actors.max = 4, count, most

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    async def run() -> int:
        actor = Actor("actor-0", cfg, [], "", str(tmp_path), version=0)
        stream = Stream(StatePool([State("s", "t", "s")], 0), 0, 100, 4, 4, 2, Cursor())
        collecting = asyncio.create_task(actor.collect(SimpleNamespace(admit=SimpleNamespace(remote=stream.admit))))
        for _ in range(100):
            await asyncio.sleep(0)
        collecting.cancel()
        return (await stream.account()).in_flight

    monkeypatch.setattr(Actor, "_group", never)
    assert asyncio.run(run()) == in_hand


def test_what_it_does_is_told_from_sampling_over_the_experiment_to_what_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors.policy.policy, "Policy", Serving)
    monkeypatch.setattr(acting, "INTERVAL", 0.005)
    cfg, state = Config(), State("s", "wine", "s")
    cfg.actors.sequences = 4
    sample = Sample(np.zeros(2, np.int32), np.zeros(2, np.float32), ((1, 0, 2),), "Thought: try", 0.1)
    worse = StepResult("edit", Outcome.EDITED, 0.5, 0.7, "", "its log", Durations(), state)

    async def told(part: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while [one.part for of in said(tmp_path, time.time()) for one in of.doing] != [part]:
                await asyncio.sleep(0.005)

    async def run() -> Tried:
        actor = Actor("actor-0", cfg, [fake_run.TASKS["wine"]], "", str(tmp_path), version=0)
        actor._chat = SimpleNamespace(end_token=0, said=lambda _, text: text)

        async def sampled(*_: object) -> Sample:
            await told("proposal")
            return sample

        async def stepped(*_: object) -> StepResult:
            await told("experiment")
            return worse

        monkeypatch.setattr(actor._policy, "sample", sampled, raising=False)
        monkeypatch.setattr(actor, "_step", stepped)
        await actor._act("group-000001/000", "group-000001", state, np.zeros(3, np.int32), 1)
        async with asyncio.timeout(PATIENCE):
            while not (found := [one for of in said(tmp_path, time.time()) for one in of.tried]):
                await asyncio.sleep(0.005)
        await actor.close()
        return found[0]

    tried = asyncio.run(run())
    assert (tried.id, tried.task, tried.text, tried.log) == ("group-000001/000", "wine", "Thought: try", "its log")
    assert (tried.before, tried.after) == (0.5, 0.7) and tried.reward is not None
    assert list(tmp_path.iterdir()) == []


def versions() -> tuple[list[Bucket], list[Bucket]]:
    """Two, of several buckets each."""
    old = {name: torch.arange(1000, dtype=torch.float32) for name in "abc"}
    new = {name: one + (torch.arange(1000) == 7) for name, one in old.items()}
    return list(pack(old.items(), 1, 1)), list(pack(new.items(), 1, 2))


def test_the_loop_answers_while_differences_are_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors.policy.policy, "Policy", Serving)
    cfg = Config()
    cfg.actors.sequences, cfg.learner.full_every = 4, 8
    old, new = versions()
    answered, restore = threading.Event(), weights.restore

    def slow(received: Any, before: Bucket | None) -> Bucket:
        assert before is None or answered.wait(PATIENCE), "the loop stood while weights were restored"
        return restore(received, before)

    async def run() -> list[Bucket]:
        actor = Actor("actor-0", cfg, [], "", str(tmp_path), version=0)
        await actor.receive(1, [asyncio.sleep(0, one) for one in old])
        changed = [difference(one, before) for one, before in zip(new, old, strict=True)]
        receiving = asyncio.create_task(actor.receive(2, [asyncio.sleep(0, one) for one in changed]))
        await asyncio.sleep(0.01)
        answered.set()
        assert await receiving > 0
        return actor._policy.served

    monkeypatch.setattr(weights, "restore", slow)
    served = asyncio.run(run())
    assert all(np.array_equal(one.data, sent.data) for one, sent in zip(served, new, strict=True))
