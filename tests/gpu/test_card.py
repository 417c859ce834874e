"""Weights of a learner on the card, served by an engine on the same card, without a copy on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from actors.policy.policy import Policy
from actors.policy.sums import PREFIX
from actors.policy.weights import differs, is_digested
from learner.algorithm.batching import Example
from learner.config.load import load
from learner.ranks.handle import Learner

pytestmark = pytest.mark.usefixtures("cluster")
BUCKET_BYTES = 1 << 20


class Server:
    """The part of an actor that serves."""

    def __init__(self, model: str, cfg: Any):
        self._policy = Policy("actor-0", model, cfg, 0)

    async def start(self) -> None:
        await self._policy.start()

    async def receive(self, weights: Any) -> dict[str, str]:
        await self._policy.load_from_card(weights)
        (served,) = await self._policy._engine.collective_rpc("norm_digests")
        return served


@pytest.fixture(scope="module")
def cfg():
    settings = [
        "learner.gpus=0.5",
        "actors.gpus=0.5",
        "learner.check_every=1",
        "actors.sequences=8",
        "sft.batch=2",
        "rl.steps=1",
    ]
    return load([*settings, "sft.learning_rate=0.05"])


@pytest.fixture(scope="module")
def learner(cluster, tiny_model: Path, cfg):
    learner = Learner(cfg, tiny_model)
    yield learner
    learner.close()


def test_the_engine_serves_the_learner_s_weights_version_after_version(learner, tiny_model, cfg):
    server = ray.remote(num_gpus=cfg.actors.gpus, max_concurrency=4)(Server).remote(str(tiny_model), cfg)
    ray.get(server.start.remote(), timeout=300)
    served = []
    for version in (1, 2):
        list(learner.finetune([Example([5, 6, 7], [8, 9, version])] * 2))
        published = learner.publish(BUCKET_BYTES, version)
        assert published.sent_bytes == 0
        (weights,) = ray.get(published.buckets)
        assert len(weights.checksums) == len(weights.tensors) > 10
        served.append(ray.get(server.receive.remote(weights), timeout=120))
        copies = ray.get(learner.publish(BUCKET_BYTES, version, full=True).buckets)  # what an actor that joins gets
        assert all(bucket.checksum.startswith(PREFIX) for bucket in copies), "the card has summed them"
        assert not any(differs(bucket.data, bucket.checksum, torch.device("cpu")) for bucket in copies)
        names = [item.name for bucket in copies for item in bucket.meta]
        assert names == [one.name for one in weights.tensors]
        for name, digest in weights.digests.items():
            assert served[-1][name] == digest
        assert {item.name for bucket in copies for item in bucket.meta if is_digested(item.name, item.shape)} == set(
            weights.digests
        )
    assert served[0] != served[1]

    (weights,) = ray.get(learner.publish(BUCKET_BYTES, 3).buckets)
    list(learner.finetune([Example([5, 6, 7], [8, 9, 1])] * 2))  # they change before they are loaded
    with pytest.raises(Exception, match="version 3 is damaged"):
        ray.get(server.receive.remote(weights), timeout=120)
