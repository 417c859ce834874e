"""A real vLLM engine with a tiny model: what it samples, how it takes weights, and how it ends."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.policy.errors import PolicyDead, PolicyError
from actors.policy.policy import Policy, Sample
from actors.policy.weights import Bucket, digests, pack
from learner.config.schema import Config

END = 2
PROMPT = tuple(range(1000, 1300))
"""More than one block of the prefix cache."""
TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def policy(runner, tiny_model):
    cfg = Config()
    cfg.model.dtype, cfg.actors.sequences = "float32", 16
    policy = Policy("actor-7", str(tiny_model), cfg, version=3)
    runner.run(policy.start())
    yield policy
    engine = engine_pids(os.getpid())
    policy.close()
    assert not alive(engine)


@pytest.fixture
def sample(policy):
    """Start sampling; returns the coroutine."""

    def start(seed: int = 0, tokens: int = 24, prompt=PROMPT):
        return policy.sample(prompt, seed, TEMPERATURE, tokens, END)

    return start


def engine_pids(actor: int) -> list[int]:
    """Processes of the engine of an actor's process."""
    children = psutil.Process(actor).children(recursive=True)
    return [child.pid for child in children if "spawn_main" in (line := " ".join(child.cmdline())) or "VLLM" in line]


def alive(pids: list[int]) -> list[int]:
    """Those of the processes that still run, at most ten seconds from now."""
    gone = time.monotonic() + 10
    running = pids
    while running and time.monotonic() < gone:
        time.sleep(0.1)
        running = [p for p in pids if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE]
    return running


def changed(folder: Path, seed: int) -> torch.nn.Module:
    """The model with other weights."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def packed(model: torch.nn.Module) -> list[Bucket]:
    buckets = list(pack(model.named_parameters(), 1 << 20, 1))
    assert len(buckets) > 1
    return buckets


def expected_logprobs(model: torch.nn.Module, sample: Sample) -> np.ndarray:
    """Log-probabilities of the sampled tokens by Hugging Face's forward pass."""
    ids = torch.tensor([[*PROMPT, *sample.response_ids]])
    with torch.no_grad():
        logits = model(ids).logits[0, len(PROMPT) - 1 : -1] / TEMPERATURE
    return logits.log_softmax(-1).gather(1, torch.tensor(sample.response_ids).long()[:, None])[:, 0].numpy()


def test_logprobs_are_of_the_distribution_that_was_sampled(runner, sample, tiny_model):
    drawn = runner.run(sample())
    assert drawn.response_ids.dtype == np.int32 and drawn.logprobs.dtype == np.float32
    assert drawn.version_spans == ((3, 0, len(drawn.response_ids)),)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    np.testing.assert_allclose(drawn.logprobs, expected_logprobs(model, drawn), atol=1e-4)


def test_norms_on_a_cpu_are_vllms_kernels_and_equal_its_plain_ones():
    # vLLM, which collecting the tests need not load; the second is what its workers import, which allows the kernels.
    from actors.policy import kernels as engine_kernels
    from actors.policy import weights_engine  # noqa: F401

    for operation in engine_kernels.OPERATIONS:
        arguments = operation.generate_inputs(num_tokens=5, hidden_size=64, dtype=torch.bfloat16)
        copies = [one.clone() if isinstance(one, torch.Tensor) else one for one in arguments]
        with operation.set_priority([*engine_kernels.PRIORITY[operation.name], "native"]):
            assert operation.dispatch(*arguments).provider == "vllm_c"
            got = operation(*arguments)
        expected = operation.impls["native"].impl_fn(*copies)
        torch.testing.assert_close(got, expected, **operation.get_tolerance(torch.bfloat16))


def test_a_seed_gives_the_same_response_alone_and_among_others(runner, sample):
    async def together():
        return await asyncio.gather(*(sample(seed) for seed in range(8)))

    alone, among = runner.run(sample(5)), runner.run(together())
    assert np.array_equal(alone.response_ids, among[5].response_ids)
    assert len({tuple(drawn.response_ids) for drawn in among}) == 8


def test_requests_in_flight_go_on_under_new_weights(runner, policy, sample, tiny_model):
    model = changed(tiny_model, seed=1)

    async def update_while_sampling() -> tuple[Sample, Sample]:
        running = asyncio.create_task(sample(tokens=600))
        while not running.done():
            await policy.update_weights(buckets, policy.version + 1)
            await asyncio.sleep(0.1)
        return await sample(), await running

    buckets = packed(model)
    after, across = runner.run(update_while_sampling())
    versions, starts, ends = zip(*across.version_spans, strict=True)
    assert len(versions) > 1 and sorted(set(versions)) == list(versions)
    assert (0, *ends) == (*starts, len(across.response_ids))
    assert after.version_spans == ((policy.version, 0, len(after.response_ids)),)
    (served,), sent = runner.run(policy._engine.collective_rpc("norm_digests")), digests(buckets)
    assert len(sent) == 5 and sent.items() <= served.items(), "vLLM has other names, so that less would be compared"
    # The same prompt is in the prefix cache, computed with the old weights.
    np.testing.assert_allclose(after.logprobs, expected_logprobs(model, after), atol=1e-4)


def test_a_damaged_bucket_is_refused_and_the_old_version_serves_on(runner, policy, sample, tiny_model):
    before = runner.run(sample())
    buckets = packed(changed(tiny_model, seed=2))
    data = buckets[1].data.copy()
    data[17] ^= 1
    buckets[1] = dataclasses.replace(buckets[1], data=data)
    damaged = policy.version + 1  # an older one would not be looked at
    with pytest.raises(PolicyError, match=f"actor-7: weight version {damaged} is damaged: bucket 1"):
        runner.run(policy.update_weights(buckets, damaged))
    after = runner.run(sample())
    assert np.array_equal(after.response_ids, before.response_ids)
    assert after.version_spans == before.version_spans


def test_what_is_in_flight_goes_on_after_a_rest_as_if_there_had_been_none(runner, policy, sample):
    async def rest_while_sampling() -> list[Sample]:
        requests = [asyncio.create_task(sample(3, tokens=150))]
        await asyncio.sleep(0.1)
        await policy.rest()
        requests.append(asyncio.create_task(sample(4)))
        assert (await asyncio.wait(requests, timeout=0.5))[0] == set(), "it samples while it rests"
        await policy.wake()
        return await asyncio.gather(*requests)

    async def undisturbed() -> list[Sample]:
        return await asyncio.gather(sample(3, tokens=150), sample(4))

    for got, expected in zip(runner.run(rest_while_sampling()), runner.run(undisturbed()), strict=True):
        assert np.array_equal(got.response_ids, expected.response_ids)
        np.testing.assert_allclose(got.logprobs, expected.logprobs, atol=1e-4)
        assert got.version_spans == expected.version_spans


def test_a_killed_engine_ends_every_wait_for_it_by_its_actors_name(runner, policy, sample, tiny_model):
    buckets, new = packed(changed(tiny_model, seed=3)), policy.version + 1

    async def kill_while_sampling_and_updating():
        pids = engine_pids(os.getpid())
        sampling = asyncio.create_task(sample(tokens=600))
        while not policy.running:
            await asyncio.sleep(0)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # so that neither ends before the engine dies
        updating = asyncio.create_task(policy.update_weights(buckets, new))
        while not policy._updating.locked():
            await asyncio.sleep(0)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return await asyncio.wait_for(asyncio.gather(sampling, updating, return_exceptions=True), 60)

    for error in runner.run(kill_while_sampling_and_updating()):
        assert isinstance(error, PolicyDead) and "actor-7: its vLLM engine died" in str(error), error
    with pytest.raises(PolicyDead, match=f"actor-7: .*version {new}"):
        runner.run(policy.update_weights(buckets, new))


class Hanging:
    """In the place of vLLM's engine: lives, and never comes to rest."""

    errored, ended = False, False

    async def pause_generation(self, **_: object) -> None:
        await asyncio.Event().wait()

    def shutdown(self) -> None:
        self.ended = True


def test_an_engine_that_hangs_in_an_update_is_ended_and_not_called_dead(runner, tiny_model):
    cfg = Config()
    cfg.actors.deadline = 0.3
    policy, engine = Policy("actor-8", str(tiny_model), cfg, version=3), Hanging()
    policy._engine = engine
    unchecked = [dataclasses.replace(bucket, checksum="") for bucket in packed(changed(tiny_model, seed=3))]
    with pytest.raises(PolicyDead, match=r"actor-8: .* did not finish weight version 4 in 0\.3 s \(actors\.deadline\)"):
        runner.run(policy.update_weights(unchecked, 4))
    assert engine.ended


class Resting:
    """In the place of vLLM's engine: answers nothing, and may be resumed only while it has its memory."""

    errored, rests = False, False

    async def generate(self, *_: object, **__: object):
        yield await asyncio.Event().wait()

    async def sleep(self, **_: object) -> None:
        self.rests = True

    async def wake_up(self) -> None:
        self.rests = False

    async def pause_generation(self, **_: object) -> None:
        assert not self.rests

    async def resume_generation(self) -> None:
        assert not self.rests


def test_a_rest_counts_towards_no_deadline_and_a_wave_waits_for_its_end(runner, tiny_model):
    cfg = Config()
    cfg.actors.deadline = 0.4
    policy = Policy("actor-8", str(tiny_model), cfg, version=3)
    policy._engine = Resting()

    async def wave() -> None:
        async with policy.held():
            pass

    async def rest_and_wake() -> None:
        before = asyncio.create_task(policy.sample(PROMPT, 0, 1.0, 9, END))
        await asyncio.sleep(0.1)
        await policy.rest()
        waiting = [before, asyncio.create_task(policy.sample(PROMPT, 0, 1.0, 9, END)), asyncio.create_task(wave())]
        assert (await asyncio.wait(waiting, timeout=0.6))[0] == set()
        await policy.wake()
        await waiting.pop()
        began = time.monotonic()
        for request, left in zip(waiting, (0.3, 0.4), strict=True):
            with pytest.raises(PolicyDead, match=r"did not finish a response in 0\.4 s"):
                await request
            assert time.monotonic() - began > left - 0.1

    runner.run(rest_and_wake())


class Started:
    """In the place of vLLM's engine: one that starts once the event loop has done something else."""

    errored, ended = False, False

    def __init__(self, went_on: threading.Event):
        assert went_on.wait(30), "the event loop stood while the engine started"

    async def update_weight_version(self, version: str) -> None: ...

    def shutdown(self) -> None:
        self.ended = True


@pytest.mark.parametrize("closed", [False, True])
def test_the_loop_goes_on_while_an_engine_starts_and_one_that_is_closed_meanwhile_ends(
    runner, tiny_model, monkeypatch, closed
):
    from vllm.v1.engine.async_llm import AsyncLLM

    cfg = Config()
    cfg.actors.sequences = 4
    policy, went_on, engines = Policy("actor-9", str(tiny_model), cfg, version=0), threading.Event(), []

    def start(*_: object, **__: object) -> Started:
        engines.append(Started(went_on))
        return engines[0]

    async def begin() -> None:
        starting = asyncio.create_task(policy.start())
        await asyncio.sleep(0.01)
        policy.require_life()  # one that has not started has not died
        if closed:
            policy.close()
        went_on.set()
        await starting

    monkeypatch.setattr(AsyncLLM, "from_engine_args", start)
    if closed:
        with pytest.raises(PolicyDead, match="actor-9: its vLLM engine has ended, it cannot give start"):
            runner.run(begin())
    else:
        runner.run(begin())
    assert engines[0].ended == closed


ACTOR = """
import asyncio, sys, time
from actors.policy.policy import Policy
from learner.config.load import load

if __name__ == "__main__":
    asyncio.run(Policy("actor-0", sys.argv[1], load([]), 0).start())
    print("serving", flush=True)
    time.sleep(600)
"""


def test_the_engine_ends_when_its_actor_is_killed(tiny_model, tmp_path):
    script = tmp_path / "actor_process.py"
    script.write_text(ACTOR)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    actor = subprocess.Popen([sys.executable, script, tiny_model], stdout=subprocess.PIPE, text=True, env=environment)
    with actor:
        assert actor.stdout.readline() == "serving\n"
        engine = engine_pids(actor.pid)
        actor.kill()
    assert engine and not alive(engine)
