"""A learner and an engine that have one card in turns, on the CPU: a real rank and a real actor in this process, and
the engine's own. The rank's memory goes and comes; vLLM's CPU workers keep theirs when they are told to rest, but its
scheduler does all that it does on a GPU. (test_learner.py has a rank that ends while it is away.)
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from actors.actor import Actor
from actors.policy.policy import Sample
from actors.pool import ActorPool
from envs.benchmarks.loader import load
from envs.sandbox import SandboxFailure, SandboxPool
from learner.algorithm.batching import Example
from learner.config.defaults import defaults, settle
from learner.ranks.handle import Learner
from learner.ranks.publisher import Publisher
from learner.ranks.turns import Turns
from tests.transitions import transition

pytestmark = pytest.mark.long

DEADLINE = 300
PROMPT, END = np.array([5, 6, 7, 8], np.int32), 2
LENGTH = 1000
"""Tokens of a response that takes longer than it takes to have the engine rest, and to give it new weights."""


class Sampling(Actor):
    async def sample(self, length: int, seed: int) -> Sample:
        return await self._policy.sample(PROMPT, seed, 1.0, length, END)


@dataclass
class Sides:
    """Both, with what was said of them."""

    pool: ActorPool
    learner: Learner
    turns: Turns
    publisher: Publisher
    said: list[str]

    def sample(self, length: int, seed: int) -> Any:
        """A reference to the response."""
        (member,) = self.pool._members.values()
        return member.handle.sample.remote(length, seed)

    def get(self, references: Any) -> Any:
        return self.pool._place.get(references, DEADLINE)

    def spans(self, length: int, seed: int) -> tuple[tuple[int, int, int], ...]:
        return self.get(self.sample(length, seed)).version_spans

    def train(self) -> float:
        """A step on what is sampled first; returns the mean gap between both sides' log-probs."""
        drawn = self.get(self.sample(30, 3))
        group = [
            transition(f"0.{n}", PROMPT, drawn.response_ids, float(n), drawn.logprobs, drawn.version_spans)
            for n in range(2)
        ]
        self.turns.learner()
        return self.learner.train([group], self.publisher.version).update.logprob_gap_mean


def engine() -> list[psutil.Process]:
    """Its processes."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if "spawn_main" in (line := " ".join(one.cmdline())) or "VLLM" in line]


@pytest.fixture(scope="module")
def sides(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    try:
        SandboxPool("process").close()
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the process sandbox is not to be had: {reason}")
    cfg, said, folder = defaults(), [], tmp_path_factory.mktemp("run")
    cfg.run.dir, cfg.run.mode, cfg.sandbox.backend, cfg.model.dtype = str(folder), "serial", "process", "float32"
    cfg.actors.sequences, cfg.actors.kv_cache_gb, cfg.actors.colocate = 4, 0.1, True
    cfg.actors.deadline, cfg.learner.deadline, cfg.learner.check_every = DEADLINE, DEADLINE, 1
    cfg.sft.batch, cfg.sft.learning_rate = 2, 0.02
    settle(cfg)

    def full_weights() -> list[Any]:
        return publisher.full_weights()

    paths = str(tiny_model), str(folder)
    pool = ActorPool(cfg, [load("wine")], *paths, 0, said.append, full_weights, kind=Sampling, resting=True)
    learner = Learner(cfg, tiny_model, said.append)
    try:
        turns = Turns(learner, pool)
        publisher = Publisher(learner, pool, turns, said.append)
        turns.actors()
        pool.started()
        yield Sides(pool, learner, turns, publisher, said)
        turns.learner()
        resting = engine()
    finally:
        pool.close()
        learner.close()
    assert resting and psutil.wait_procs(resting, timeout=20)[1] == [], "an engine that rests ends as any other"


def test_they_take_turns_and_what_is_in_flight_goes_on_under_new_weights(sides: Sides, tmp_path: Path) -> None:
    flying = sides.sample(LENGTH, 1)
    sides.pool._place.sleep(0.2)
    sides.turns.learner()
    examples = [Example(np.arange(3, 9, dtype=np.int32), np.arange(9, 14, dtype=np.int32)) for _ in range(8)]
    losses = [step.loss for step in sides.learner.finetune(examples)]
    assert losses[-1] < losses[0]
    sides.learner.save(tmp_path / "saved")
    waits = sides.sample(20, 2)
    done = sides.pool._place.wait([flying, waits], timeout=0.5)[0]
    assert done == [], f"sampled in the learner's turn: {[sides.get(one) for one in done]}"
    sides.publisher.publish()
    across, after = sides.get([flying, waits])
    assert len(across.response_ids) == LENGTH and [version for version, *_ in across.version_spans] == [0, 1]
    assert len(after.response_ids) == 20
    assert sides.train() < 1e-3, "the engine serves other weights than the learner has"
    sides.publisher.publish()
    assert sides.spans(5, 4) == ((2, 0, 5),)
    assert sides.said == []


def test_an_engine_that_ends_in_its_rest_is_replaced_by_one_that_serves_the_newest_weights(sides: Sides) -> None:
    before = len(sides.said)
    sides.turns.learner()
    for process in engine():
        os.kill(process.pid, signal.SIGKILL)
    sides.publisher.publish()
    sides.turns.learner()  # waits for the engine that starts
    sides.turns.actors()
    version = sides.publisher.version
    assert sides.spans(5, 5) == ((version, 0, 5),)
    assert sides.train() < 1e-3, "it serves other weights than the learner has"
    lost, joined = sides.said[before:]
    assert "actor-0 failed to take its card back" in lost and "engine died" in lost
    assert joined == f"actor-1 serves weight version {version} and joins"
