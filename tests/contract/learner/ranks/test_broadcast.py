"""Weights that are broadcast to the engines: real ranks, actors and engines, over gloo in the place of NCCL."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import ray

from actors.actor import Actor
from actors.pool import ActorPool
from envs.benchmarks.loader import load
from envs.sandbox import SandboxFailure, SandboxPool
from learner.algorithm.batching import Example
from learner.config.defaults import defaults, settle
from learner.ranks.handle import Learner

pytestmark = pytest.mark.long

DEADLINE = 60
ROOT = Path(__file__).parents[4]


class Watched(Actor):
    async def digests(self) -> dict[str, str]:
        (found,) = await self._policy._engine.collective_rpc("norm_digests")
        return found


@pytest.fixture(scope="module", autouse=True)
def cluster():
    try:
        SandboxPool("process").close()
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the process sandbox is not to be had: {reason}")
    environment = {
        "worker_process_setup_hook": "tests.gloo_for_nccl.install", "env_vars": {"PYTHONPATH": str(ROOT)},
    }  # fmt: skip
    ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    yield
    ray.shutdown()


def test_all_actors_serve_what_is_broadcast_and_a_lost_one_is_made_up_for(tiny_model: Path, tmp_path: Path) -> None:
    cfg, said = defaults(), []
    cfg.run.dir, cfg.sandbox.backend, cfg.actors.sequences, cfg.actors.kv_cache_gb = str(tmp_path), "process", 4, 0.1
    cfg.actors.count, cfg.actors.deadline, cfg.learner.deadline = 2, DEADLINE, DEADLINE
    cfg.learner.ranks, cfg.learner.zero_stage, cfg.learner.check_every, cfg.sft.batch = 2, 3, 1, 2
    cfg.sft.learning_rate = 0.05  # so that in bfloat16 the norms change too
    settle(cfg)
    learner = Learner(cfg, tiny_model, said.append)

    def full_weights() -> list:
        return learner.publish(1 << 20, version, full=True).buckets

    version = 0
    pool = ActorPool(
        cfg, [load("wine")], str(tiny_model), str(tmp_path), version, said.append, full_weights, kind=Watched
    )

    def served() -> list[dict[str, str]]:
        return ray.get([one.handle.digests.remote() for one in pool.receivers()])

    def broadcast() -> None:
        learner.broadcast(version, pool.receivers)
        pool.publish(version, [])

    try:
        pool.started()
        version = 1
        broadcast()
        first = served()
        examples = [Example(np.arange(3, 9, dtype=np.int32), np.arange(9, 14, dtype=np.int32)) for _ in range(8)]
        for _ in learner.finetune(examples):
            pass
        learner.save(tmp_path / "saved")
        version = 2
        broadcast()
        second = served()
        version = 3
        pool.publish(version, full_weights())
        assert second == served(), "other weights came than through the object store"
        assert first[0] == first[1] and second[0] == second[1]
        assert all(first[0][name] != second[0][name] for name in first[0] if "norm" in name or "embed" in name)

        os.kill(pool._members["actor-0"].about["pid"], signal.SIGKILL)
        version = 4
        broadcast()
        end = time.monotonic() + DEADLINE
        while pool.activity()["actors_alive"] < 2:
            pool.check()
            time.sleep(0.2)
            assert time.monotonic() < end, said
        version = 5
        broadcast()
        assert "actor-0" not in [one.name for one in pool.receivers()]
        assert served() == [second[0]] * 2, said
        assert all(one["version"] == 5 for one in ray.get([o.handle.status.remote() for o in pool.receivers()]))
    finally:
        pool.close()
        learner.close()
