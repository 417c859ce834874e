"""From configuration over batch and rows to loss and gradient: every objective against its plain statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.records import Outcome, Transition
from learner.algorithm import losses, policy_batch, step_report
from learner.algorithm.policy_step import objective, row_loss
from learner.algorithm.policy_sums import WORST, PolicySums, combine
from learner.config.schema import RlConfig
from learner.model import value_head
from tests.plain_objective import Said, plain_advantages, plain_loss
from tests.transitions import transition

VERSION = 7
LONGEST = 9
"""Tokens of the longest prompt with the longest response, less one."""
DIFFERENCES = np.array([-2.0, -0.7, -0.2, -0.05, 0.0, 0.1, 0.3, 0.6, 1.5], np.float32)
"""Between log-probs of two policies: on both sides of every clip, and so far from each that rounding decides none."""

configurations = st.builds(
    RlConfig,
    algorithm=st.sampled_from(["grpo", "centred", "rloo", "ppo"]),
    loss=st.sampled_from(["ppo", "cispo"]),
    ratio=st.sampled_from(["token", "sequence"]),
    clip=st.sampled_from([0.2, 0.4]),
    clip_high=st.sampled_from([0.0, 0.3]),
    dual_clip=st.sampled_from([0.0, 1.2, 3.0]),
    correction=st.sampled_from(["none", "decoupled", "truncated"]),
    correction_cap=st.sampled_from([0.9, 2.0]),
    correction_level=st.sampled_from(["token", "sequence"]),
    mask=st.sampled_from(["none", "token", "sequence", "geometric"]),
    refill=st.sampled_from([0, 2]),
    mask_low=st.sampled_from([0.0, 0.44]),
    mask_high=st.sampled_from([1.4, 3.0]),
    kl=st.sampled_from([0.0, 0.3]),
    entropy=st.sampled_from([0.0, 0.05]),
    aggregation=st.sampled_from(["token", "sequence", "sequence_sum", "constant"]),
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
    policy, of_value, tokens = plain_loss(groups, rl, expected, LONGEST)
    if tokens:
        (policy + of_value).backward()

    got = leaves(groups, seed)
    batch = policy_batch.build(groups, VERSION, row_tokens, rl, longest=LONGEST)
    by_group = [got[names[0]].value for names in batch.groups]
    parts = []
    for row in batch.rows:
        assert len(row.row.input_ids) <= row_tokens
        index = torch.from_numpy(row.row.token_index)

        def of_row(field: str, index: torch.Tensor = index) -> torch.Tensor:
            return torch.cat([getattr(got[one.id], field) for one in batch.members])[index]

        values = torch.stack([by_group[group] for group in row.row.groups]) if rl.algorithm == "ppo" else None
        reference = of_row("reference") if rl.kl else None
        fixed = None if values is None else values.detach()
        given = row, of_row("logprobs"), of_row("entropy"), fixed, of_row("proximal"), reference, objective(rl)
        loss, sums = row_loss(*given)
        assert loss.item() == pytest.approx(sums.loss, rel=1e-5, abs=1e-6)
        loss.backward()
        if values is not None:  # which learn by themselves
            seen = value_head.seen(values[:, None], row)
            losses.value_loss(values[seen.prompt], seen.returns, seen.weights).backward()
        parts.append(sums)
    for name in expected:
        for field in ("logprobs", "entropy", "value"):
            wanted, found = (getattr(said[name], field) for said in (expected, got))
            wanted, found = (torch.zeros_like(t) if t.grad is None else t.grad for t in (wanted, found))
            assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6), (name, field, found, wanted)
    assert bool(parts) == bool(tokens)
    if parts:
        assert combine([PolicySums(), *parts]) == combine(parts), "a rank without rows adds nothing"
    report = step_report.build(batch, [combine(parts)] if parts else [], rate=0.1, seconds=2.0)
    assert (report.learning_rate, report.train_seconds) == (0.1, 2.0)
    assert report.masked == sum(one.outcome is Outcome.INFRA_FAILURE for group in groups for one in group)
    assert report.train_tokens_per_s == sum(len(row.row.input_ids) for row in batch.rows) / 2.0
    assert report.advantages == pytest.approx(plain_advantages(groups, rl, expected), rel=1e-4, abs=1e-5)
    if not parts:
        assert report.update is None
        return
    update = {
        "loss": policy.item(),
        "value_loss": of_value.item(),
        "ratio_mean": np.mean([one.ratio for one in tokens]),
        "clip_fraction": np.mean([one.clipped for one in tokens]),
        "kl": np.mean([one.kl for one in tokens]),
        "importance_max": max(one.weight for one in tokens),
        "rejected_fraction": np.mean([one.weight == 0 for one in tokens]),
    }
    assert {name: getattr(report.update, name) for name in update} == pytest.approx(update, rel=1e-4, abs=1e-5)
    own = {name: [one for one in tokens if one.response == name] for name in {one.response for one in tokens}}
    assert report.ratios == pytest.approx({name: np.mean([one.ratio for one in its]) for name, its in own.items()})
    parts_of = {name: sum(one.part for one in its) for name, its in own.items()}
    assert report.losses == pytest.approx(parts_of, rel=1e-4, abs=1e-5)
    gaps = gaps_of([one for one in batch.members if one.id in own], got)
    pool = [gap for gap in gaps.values() if gap.current] or list(gaps.values())
    sizes = sorted((gap.size for gap in pool), reverse=True)
    found = report.update
    assert found.entropy == pytest.approx(np.mean([gap.entropy for gap in gaps.values()]), rel=1e-4)
    assert found.logprob_gap_on_current == any(gap.current for gap in gaps.values())
    assert (found.logprob_gap_mean, found.logprob_gap_max) == pytest.approx((np.mean(sizes), sizes[0]), abs=1e-5)
    assert [worst.gap for worst in report.worst_tokens] == pytest.approx(sizes[:WORST], abs=1e-5)
    assert len({(worst.transition_id, worst.position) for worst in report.worst_tokens}) == len(report.worst_tokens)
    for worst in report.worst_tokens:
        gap = gaps[worst.transition_id, worst.position]
        assert (worst.token, worst.engine, worst.learner) == (gap.token, gap.engine, gap.learner)
        assert worst.gap == pytest.approx(gap.size, abs=1e-5)


@dataclass(frozen=True)
class Gap:
    """What engine and learner say of one token."""

    engine: float
    learner: float
    entropy: float
    token: int
    current: bool

    @property
    def size(self) -> float:
        return abs(self.learner - self.engine)


def gaps_of(members: Sequence[Transition], said: dict[str, Said]) -> dict[tuple[str, int], Gap]:
    """By transition and place in its response."""
    return {
        (one.id, place): Gap(
            float(one.behaviour_logprobs[place]),
            said[one.id].logprobs[place].item(),
            said[one.id].entropy[place].item(),
            int(one.response_ids[place]),
            any(start <= place < end for version, start, end in one.version_spans if version == VERSION),
        )
        for one in members
        for place in range(len(one.response_ids))
    }
