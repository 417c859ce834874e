"""From configuration over batch and rows to loss and gradient: every objective against its plain statement."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.records import Outcome, Transition
from learner.algorithm import policy_batch
from learner.algorithm.policy_step import combine, objective, row_loss
from learner.config.schema import RlConfig
from tests.plain_objective import Said, plain_loss
from tests.transitions import transition

VERSION = 7
LONGEST = 9
"""Tokens of the longest prompt with the longest response, less one."""
DIFFERENCES = np.array([-2.0, -0.7, -0.2, -0.05, 0.0, 0.1, 0.3, 0.6, 1.5], np.float32)
"""Between log-probs of two policies: on both sides of every clip, and so far from each that rounding decides none."""

configurations = st.builds(
    RlConfig,
    algorithm=st.sampled_from(["grpo", "rloo", "ppo"]),
    clip=st.sampled_from([0.2, 0.4]),
    dual_clip=st.sampled_from([0.0, 1.2, 3.0]),
    correction=st.sampled_from(["none", "decoupled", "truncated"]),
    correction_cap=st.sampled_from([0.9, 2.0]),
    kl=st.sampled_from([0.0, 0.3]),
    entropy=st.sampled_from([0.0, 0.05]),
    aggregation=st.sampled_from(["token", "sequence"]),
    duration_weight=st.booleans(),
)


@st.composite
def batches(draw) -> list[list[Transition]]:
    """Of prompts that begin alike; failures have no reward."""
    prompts = st.lists(st.integers(1, 2), min_size=1, max_size=5)
    numbers = np.random.default_rng(draw(st.integers(0, 1000)))
    groups = []
    for group in range(draw(st.integers(1, 4))):
        own, members = draw(prompts), []
        for member in range(draw(st.integers(1, 4))):
            length = draw(st.integers(1, 5))
            fresh = draw(st.integers(0, length))
            failed = draw(st.integers(0, 5)) == 0
            members.append(
                transition(
                    f"{group}.{member}",
                    prompt=own if draw(st.booleans()) else draw(prompts),  # others in a group of whole episodes
                    response=numbers.integers(0, 9, length),
                    reward=float("nan") if failed else draw(st.sampled_from([-1.0, 0.0, 0.5, 1.0])),
                    behaviour=-numbers.uniform(0.1, 4, length),
                    spans=[(VERSION - 1, 0, length - fresh), (VERSION, length - fresh, length)],
                    outcome=Outcome.INFRA_FAILURE if failed else Outcome.EDITED,
                    seconds=draw(st.sampled_from([0.0, 0.5, 4.0])),
                )
            )
        groups.append(members)
    return groups


def leaves(groups: list[list[Transition]], seed: int) -> dict[str, Said]:
    """A policy, where it began, a reference and values: numbers with gradient in place of models."""
    numbers, values = np.random.default_rng(seed), {}
    said = {}
    for one in (one for group in groups for one in group):
        length = len(one.response_ids)
        proximal = torch.from_numpy(one.behaviour_logprobs + numbers.choice(DIFFERENCES, length))
        logprobs = proximal + torch.from_numpy(numbers.choice(DIFFERENCES, length))
        at = (one.group_id, one.prompt_ids.tobytes())
        said[one.id] = Said(
            logprobs=logprobs.requires_grad_(),
            entropy=torch.from_numpy(numbers.uniform(0, 3, length).astype(np.float32)).requires_grad_(),
            proximal=proximal,
            reference=logprobs.detach() + torch.from_numpy(numbers.choice(DIFFERENCES, length)),
            value=values.setdefault(at, torch.tensor(numbers.uniform(-1, 1), dtype=torch.float32).requires_grad_()),
        )
    return said


@settings(deadline=None, max_examples=100)
@given(configurations, batches(), st.integers(0, 1000), st.sampled_from([LONGEST, 14, 60]))
def test_every_objective_has_the_loss_figures_and_gradient_of_its_papers(rl, groups, seed, row_tokens):
    expected = leaves(groups, seed)
    policy, of_value, tokens = plain_loss(groups, rl, VERSION, expected)
    if tokens:
        (policy + of_value).backward()

    got = leaves(groups, seed)
    batch = policy_batch.build(groups, VERSION, row_tokens, rl)
    by_group = [got[names[0]].value for names in batch.groups]
    parts = []
    for row in batch.rows:
        assert len(row.row.input_ids) <= row_tokens
        index = torch.from_numpy(row.row.token_index)

        def of_row(field: str, index: torch.Tensor = index) -> torch.Tensor:
            return torch.cat([getattr(got[one.id], field) for one in batch.members])[index]

        values = torch.stack([by_group[group] for group in row.row.groups]) if rl.algorithm == "ppo" else None
        reference = of_row("reference") if rl.kl else None
        given = row, of_row("logprobs"), of_row("entropy"), values, of_row("proximal"), reference, objective(rl)
        loss, sums = row_loss(*given)
        assert loss.item() == pytest.approx(sums.loss + sums.value_loss, rel=1e-5, abs=1e-6)
        loss.backward()
        parts.append(sums)
    sums = combine(parts) if parts else None

    for name in expected:
        for field in ("logprobs", "entropy", "value"):
            wanted, found = (getattr(said[name], field) for said in (expected, got))
            wanted, found = (torch.zeros_like(t) if t.grad is None else t.grad for t in (wanted, found))
            torch.testing.assert_close(
                found, wanted, rtol=1e-4, atol=1e-6, msg=lambda m, at=(name, field): f"{at}: {m}"
            )
    if sums is None:
        assert not tokens
        return
    assert sums.loss == pytest.approx(policy.item(), rel=1e-4, abs=1e-5)
    assert sums.value_loss == pytest.approx(of_value.item(), rel=1e-4, abs=1e-6)
    assert sums.ratio == pytest.approx(sum(one.ratio for one in tokens), rel=1e-4)
    assert sums.clipped == sum(one.clipped for one in tokens)
    assert sums.kl == pytest.approx(sum(one.kl for one in tokens), rel=1e-4, abs=1e-5)
    assert sums.importance_max == pytest.approx(max(one.weight for one in tokens), rel=1e-5)
    starts = np.cumsum([0, *(len(one.response_ids) for one in batch.members)])[:-1]
    names = {int(start): one.id for start, one in zip(starts, batch.members, strict=True)}
    assert sorted(names[start] for start, *_ in sums.responses) == sorted({one.response for one in tokens})
    for start, ratio, part in sums.responses:
        own = [one for one in tokens if one.response == names[start]]
        assert ratio == pytest.approx(sum(one.ratio for one in own) / len(own), rel=1e-4)
        assert part == pytest.approx(sum(one.part for one in own), rel=1e-4, abs=1e-5)
