"""The pool of actors over Ray, each with a real engine: it grows and shrinks while a stream is served, and an actor
that is killed while it takes new weights is replaced."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from actors.policy.weights import pack
from actors.pool import ActorError, ActorPool
from envs.benchmarks.loader import load
from envs.records import State
from envs.sandbox import SandboxFailure, SandboxPool
from learner.config.defaults import defaults, settle
from learner.stream.packed import unpack
from learner.stream.states import StatePool
from learner.stream.stream import Cursor, Stream

pytestmark = pytest.mark.long

STATES, ACTIONS = 2, 2
DEADLINE = 120


@pytest.fixture(scope="module", autouse=True)
def cluster():
    try:
        SandboxPool("process").close()
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the process sandbox is not to be had: {reason}")
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def buckets(tiny_model: Path) -> list:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    return [ray.put(bucket) for bucket in pack(model.named_parameters(), 1 << 20, 1)]


class Trainer:
    """Stands for the learner: takes batches and publishes the same weights as ever newer versions."""

    def __init__(self, pool: ActorPool, stream, buckets: list):
        self.pool, self.stream, self.buckets = pool, stream, buckets
        self.version, self.groups = 1, []

    def step(self) -> None:
        asked, end = self.stream.batch.remote(), time.monotonic() + DEADLINE
        while not ray.wait([asked], timeout=0.5)[0]:
            self.pool.check()
            assert time.monotonic() < end, "no batch came"
        self.pool.check()
        self.groups += [group[0].group_id for group in unpack(ray.get(asked))]
        self.version += 1
        self.pool.publish(self.version, self.buckets)
        ray.get(self.stream.advance.remote())

    def until(self, condition) -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            self.step()
            assert time.monotonic() < end, "the pool did not come so far in time"


def test_actors_join_leave_and_are_replaced_while_the_stream_goes_on(tiny_model, buckets, tmp_path):
    cfg, said = defaults(), []
    settle(cfg)
    cfg.run.dir, cfg.sandbox.backend, cfg.model.response = str(tmp_path), "process", 16
    cfg.rl.states, cfg.rl.actions, cfg.actors.sequences, cfg.actors.kv_cache_gb = STATES, ACTIONS, 4, 0.1
    cfg.actors.max, cfg.actors.deadline = 2, DEADLINE
    pool = ActorPool(cfg, [load("wine")], str(tiny_model), str(tmp_path), 0, said.append, lambda: buckets)
    try:
        pool.started()
        pool.set_baselines({name: result.score_after for name, result in pool.first("baselines").items()})
        state = pool.first("explore", "wine", 0, []).moves[0].state
        stream = ray.remote(num_cpus=0, max_concurrency=100)(Stream)
        stream = stream.remote(StatePool([State(**vars(state))], 0), 0, 10**6, STATES, ACTIONS, 1, Cursor())
        trainer = Trainer(pool, stream, buckets)
        pool.publish(1, buckets)
        pool.collect(stream)
        trainer.step()

        pool.resize(2)
        trainer.until(lambda: pool.activity()["actors_alive"] == 2)
        assert "actor-1 serves weight version" in said[-1]

        first = pool._members["actor-0"].about["pid"]
        threading.Timer(0.01, os.kill, (first, signal.SIGKILL)).start()
        trainer.until(lambda: any("replaced by actor-2" in line for line in said))
        trainer.until(lambda: set(pool._members) == {"actor-1", "actor-2"} and pool.activity()["actors_alive"] == 2)

        pool.resize(1)
        trainer.step()
        trainer.step()
        assert set(pool._members) == {"actor-1"}
        with pytest.raises(ActorError, match="actors.max=2"):
            pool.resize(3)

        assert sorted(trainer.groups) == [f"group-{index:06d}" for index in range(len(trainer.groups))]
        account = ray.get(stream.account.remote())
        assert account.trained == len(trainer.groups)
        assert account.started == account.trained + account.ready + account.in_flight + account.again
        ray.get(stream.close.remote())
        pool.finish()
    finally:
        pool.close()
