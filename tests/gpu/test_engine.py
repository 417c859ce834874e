"""A vLLM engine on a share of a card: what it samples, how it takes weights, and what it says when it does not fit."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.policy.errors import PolicyError
from actors.policy.policy import Policy, Sample
from actors.policy.weights import pack
from learner.config.load import load
from learner.run import cards

PROMPT, END = tuple(range(1000, 1300)), 2
SHARE = ["learner.gpus=0.5", "actors.gpus=0.25", "actors.sequences=16", "rl.steps=1"]  # which starts soonest


def engine(model: Path, *arguments: str) -> Policy:
    return Policy("actor-0", str(model), load([*SHARE, *arguments]), version=3)


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def policy(runner, tiny_model):
    policy = engine(tiny_model)
    runner.run(policy.start())
    yield policy
    policy.close()


def sampled(policy: Policy, seed: int, tokens: int = 48):
    return policy.sample(PROMPT, seed, 1.0, tokens, END)


def gap(model: torch.nn.Module, sample: Sample) -> float:
    ids = torch.tensor([[*PROMPT, *sample.response_ids]], device="cuda")
    with torch.no_grad():
        logits = model(ids).logits[0, len(PROMPT) - 1 : -1].float()
    expected = logits.log_softmax(-1).gather(1, ids[0, len(PROMPT) :, None])[:, 0].cpu().numpy()
    return float(np.abs(expected - sample.logprobs).mean())


def test_logprobs_are_of_the_model_and_updates_in_flight_change_it(runner, policy, tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).cuda().eval()
    assert gap(model, runner.run(sampled(policy, 0))) < 0.05
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)

    async def across() -> Sample:
        running = asyncio.create_task(sampled(policy, 1, 800))
        while not policy.running:
            await asyncio.sleep(0.01)
        await policy.update_weights(list(pack(model.named_parameters(), 1 << 20, 4)), 4)
        return await running

    versions = [span[0] for span in runner.run(across()).version_spans]
    assert versions[-1] == 4 and set(versions) <= {3, 4}
    after = runner.run(sampled(policy, 0))
    assert after.version_spans == ((4, 0, len(after.response_ids)),) and gap(model, after) < 0.05
    first, *rest = pack(model.named_parameters(), 1 << 20, 5)
    damaged = dataclasses.replace(first, data=first.data.copy())
    damaged.data[7] ^= 1
    with pytest.raises(PolicyError, match="version 5 is damaged"):
        runner.run(policy.update_weights([damaged, *rest], 5))
    assert policy.version == 4


def test_the_engine_takes_no_more_than_its_share(policy):
    (card,) = cards.read()[:1]
    assert card.total - card.free < 0.3 * card.total


def test_an_engine_that_does_not_fit_says_what_it_would_take(runner, tiny_model):
    with pytest.raises(PolicyError, match=r"raise actors\.gpu_memory or actors\.gpus"):
        runner.run(engine(tiny_model, "actors.gpu_memory=0.001").start())


def test_an_engine_on_a_full_card_says_so_in_the_engine_s_own_words(runner, tiny_model):
    (card,) = cards.read()[:1]
    taken = torch.empty(int(card.free - 0.1 * card.total), dtype=torch.uint8, device="cuda")
    try:
        with pytest.raises(PolicyError, match="(?i)memory") as refused:
            runner.run(engine(tiny_model, "actors.gpu_memory=0.2").start())
        assert "See root cause above" not in str(refused.value)
    finally:
        del taken
        torch.cuda.empty_cache()
