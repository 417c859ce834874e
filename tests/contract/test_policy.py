"""The policy with a real vLLM engine on the CPU: its log-probs, its weight updates, and its end."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.policy import Policy, PolicyDead, PolicyError, Sample
from actors.weights import Bucket, pack
from learner.config import Config

END = 2
PROMPT = list(range(100, 140))


def config() -> Config:
    cfg = Config()
    cfg.model.context = 1024
    cfg.actors.sequences = 8
    cfg.actors.deadline = 200.0
    return cfg


def started(runner: asyncio.Runner, name: str, folder: Path, version: int = 0) -> Policy:
    policy = Policy(name, str(folder), config(), version)
    runner.run(policy.start())
    return policy


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def policy(runner: asyncio.Runner, tiny_model: Path) -> Iterator[Policy]:
    policy = started(runner, "actor-7", tiny_model)
    yield policy
    policy.close()


@pytest.fixture(scope="module")
def new_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like `tiny_model` with other weights."""
    folder = tmp_path_factory.mktemp("new-model")
    for file in tiny_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def buckets(folder: Path) -> list[Bucket]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    return list(pack(model.named_parameters(), bucket_bytes=1 << 20))


async def sample(policy: Policy, seed: int, tokens: int = 32, temperature: float = 1.0) -> Sample:
    return await policy.sample(PROMPT, seed, temperature, tokens, END)


def reference_logprobs(folder: Path, response: np.ndarray, temperature: float) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([[*PROMPT, *response.tolist()]])
    with torch.no_grad():
        logprobs = (model(ids).logits[0, len(PROMPT) - 1 : -1] / temperature).log_softmax(-1)
    return logprobs.gather(1, ids[0, len(PROMPT) :, None])[:, 0].numpy()


def gone(pids: list[int], within: float) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if not any(_runs(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_logprobs_are_of_the_distribution_sampled_from(runner, policy, tiny_model, temperature):
    found = runner.run(sample(policy, seed=3, temperature=temperature))
    assert found.version_spans == ((0, 0, len(found.response_ids)),)
    expected = reference_logprobs(tiny_model, found.response_ids, temperature)
    np.testing.assert_allclose(found.logprobs, expected, atol=0.05)


def test_a_seed_fixes_the_response(runner, policy):
    first, again, other = runner.run(_gather(sample(policy, 5), sample(policy, 5), sample(policy, 6)))
    assert first.response_ids.tolist() == again.response_ids.tolist() != other.response_ids.tolist()


async def _gather(*coroutines):
    return await asyncio.gather(*coroutines)


def test_damaged_weights_are_refused_and_the_old_ones_serve_on(runner, policy, new_model):
    before = runner.run(sample(policy, 9))
    good, *rest = buckets(new_model)
    data = good.data.copy()
    data[100] ^= 1
    with pytest.raises(PolicyError, match=r"actor-7: bucket 0 of weight version 1 is damaged") as raised:
        runner.run(policy.update_weights([dataclasses.replace(good, data=data), *rest], 1))
    assert not isinstance(raised.value, PolicyDead)
    after = runner.run(sample(policy, 9))
    assert after.response_ids.tolist() == before.response_ids.tolist()
    assert {version for version, _, _ in after.version_spans} == {0}


def test_an_update_keeps_requests_in_flight_and_is_what_a_fresh_engine_serves(runner, policy, new_model):
    async def update_during_a_response() -> Sample:
        running = asyncio.create_task(sample(policy, 11, tokens=800))
        await asyncio.sleep(0.2)
        assert not running.done()
        await policy.update_weights(buckets(new_model), 1)
        return await running

    found = runner.run(update_during_a_response())
    versions = [version for version, _, _ in found.version_spans]
    starts, ends = [s for _, s, _ in found.version_spans], [e for _, _, e in found.version_spans]
    assert versions == [0, 1]
    assert starts[0] == 0 and starts[1] == ends[0] and ends[1] == len(found.response_ids) == len(found.logprobs)
    after = runner.run(sample(policy, 12))
    assert {version for version, _, _ in after.version_spans} == {1}
    fresh = started(runner, "fresh", new_model, version=1)
    try:
        expected = runner.run(sample(fresh, 12))
    finally:
        fresh.close()
    assert after.response_ids.tolist() == expected.response_ids.tolist()
    np.testing.assert_allclose(after.logprobs, expected.logprobs, atol=1e-3)
    assert gone(fresh.engine_pids, within=20)


def test_the_engine_does_not_outlive_a_killed_actor(tiny_model):
    script = f"""
import asyncio, sys, tests.contract.test_policy as t
from actors.policy import Policy
async def main():
    policy = Policy("doomed", sys.argv[1], t.config(), 0)
    await policy.start()
    print("pids", *policy.engine_pids, flush=True)
    await asyncio.sleep({600})
if __name__ == "__main__":
    asyncio.run(main())
"""
    root = Path(__file__).parents[2]
    file = tiny_model / "doomed.py"
    file.write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    actor = subprocess.Popen([sys.executable, file, tiny_model], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        line = next((line for line in actor.stdout if line.startswith("pids ")), "pids")
        pids = [int(pid) for pid in line.split()[1:]]
        assert pids and all(_runs(pid) for pid in pids)
    finally:
        actor.kill()
        actor.wait()
    assert gone(pids, within=20)


def test_a_dead_engine_is_an_error_that_names_the_actor(runner, policy):
    """Last in this module: it kills the shared engine."""

    async def killed_while_sampling() -> None:
        running = asyncio.create_task(sample(policy, 13, tokens=800))
        await asyncio.sleep(0.2)
        os.kill(policy.engine_pids[0], signal.SIGKILL)
        await running

    with pytest.raises(PolicyDead, match="actor-7"):
        runner.run(killed_while_sampling())
    assert gone(policy.engine_pids, within=20)
