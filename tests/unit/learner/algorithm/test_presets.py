"""What `rl.preset` stands for: each paper's objective written out, against the gradient that the preset comes to.

From configuration over batch and rows to loss and gradient; papers maximise an objective, the learner minimises a loss.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import Tensor

from envs.records import Transition
from learner.algorithm import policy_batch
from learner.algorithm.policy_step import objective, row_loss
from learner.config.load import load
from learner.config.objectives import PRESETS
from tests.plain_objective import Said
from tests.unit.learner.algorithm.test_objectives import LONGEST, VERSION, batches, leaves

Group = Sequence[tuple[Transition, Said, float]]
"""Each response of a prompt with what models say of it, and its advantage over the others."""


def over_deviation(rewards: Sequence[float]) -> list[float]:
    return [(r - statistics.fmean(rewards)) / (statistics.pstdev(rewards) + 1e-6) for r in rewards]


def over_mean(rewards: Sequence[float]) -> list[float]:
    return [r - statistics.fmean(rewards) for r in rewards]


def over_others(rewards: Sequence[float]) -> list[float]:
    return [r - statistics.fmean([*rewards[:i], *rewards[i + 1 :]]) for i, r in enumerate(rewards)]


def entropic_less_one(rewards: Sequence[float]) -> list[float]:
    """w − 1 with w = e^(βr) / mean of e^(βr), β such that KL(w / n ‖ 1 / n) is log 2, or as steep as may be."""

    def weights(beta: float) -> list[float]:
        powers = [math.exp(beta * (r - max(rewards))) for r in rewards]
        return [power / statistics.fmean(powers) for power in powers]

    def short(beta: float) -> float:
        return statistics.fmean(w * math.log(w) for w in weights(beta) if w) - math.log(2)

    steep = 700 / (max(rewards) - min(rewards))  # where e^(βr) of all but the best is nothing
    return [w - 1 for w in weights(brentq(short, 0, steep) if short(steep) > 1e-9 else steep)]


def ratios(one: Transition, said: Said) -> Tensor:
    """π / π_old of each token: what sampled it is the old policy."""
    return torch.exp(said.logprobs.double() - torch.from_numpy(one.behaviour_logprobs).double())


def clipped(ratio: Tensor, advantage: float, low: float, high: float) -> Tensor:
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def mean(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).mean()


def grpo(responses: Group) -> Tensor:
    """arXiv 2402.03300, eq. 3: 1/G Σ 1/|o| Σ {min(r A, clip(r) A) − β (q − log q − 1)}."""

    def of(one: Transition, said: Said, advantage: float) -> Tensor:
        q = torch.exp(said.reference.double() - said.logprobs.double())
        return (clipped(ratios(one, said), advantage, 0.2, 0.2) - 0.04 * (q - q.log() - 1)).mean()

    return mean([of(*one) for one in responses])


def dr_grpo(responses: Group) -> Tensor:
    """arXiv 2503.20783: 1/G Σ Σ min(r A, clip(r) A), over the most tokens that are generated."""
    return mean([clipped(ratios(one, said), a, 0.2, 0.2).sum() for one, said, a in responses]) / LONGEST


def rloo(responses: Group) -> Tensor:
    """arXiv 2402.14740: 1/k Σ (R − mean of the others) ∇ log π(y), of fresh samples (see `fresh`)."""
    return mean([a * ratios(one, said).sum() for one, said, a in responses])


def entropic(responses: Group) -> Tensor:
    """TTT-Discover, arXiv 2601.16175: 1/n Σ A ∇ log π(y), of fresh samples, without its penalty of divergence."""
    return rloo(responses)


def dapo(responses: Group) -> Tensor:
    """arXiv 2503.14476, eq. 8: 1/Σ|o| Σ Σ min(r A, clip(r, 1 − 0.2, 1 + 0.28) A)."""
    return torch.cat([clipped(ratios(one, said), a, 0.2, 0.28) for one, said, a in responses]).mean()


def gspo(responses: Group) -> Tensor:
    """arXiv 2507.18071, eq. 5 and 7: 1/G Σ min(s A, clip(s) A), s = (π(y) / π_old(y))^(1/|y|)."""

    def of(one: Transition, said: Said, advantage: float) -> Tensor:
        s = ratios(one, said).prod() ** (1 / len(one.response_ids))
        return clipped(s, advantage, 3e-4, 4e-4)

    return mean([of(*one) for one in responses])


def cispo(responses: Group) -> Tensor:
    """MiniMax-M1, arXiv 2506.13585, eq. 4: 1/Σ|o| Σ Σ sg(min(r, 1 + ε)) A log π."""
    return torch.cat([
        ratios(one, said).detach().clamp(max=5.0) * a * said.logprobs.double() for one, said, a in responses
    ]).mean()  # fmt: skip


def icepop(responses: Group) -> Tensor:
    """arXiv 2510.18855: 1/G Σ 1/|y| Σ M(π_train(old) / π_infer(old)) min(r A, clip(r) A), r between trained policies;
    M(k) is k within 0.5 … 5, else 0."""

    def of(one: Transition, said: Said, advantage: float) -> Tensor:
        off = torch.exp(said.proximal.double() - torch.from_numpy(one.behaviour_logprobs).double())
        kept = torch.where((off >= 0.5) & (off <= 5), off, 0.0)
        ratio = torch.exp(said.logprobs.double() - said.proximal.double())
        return (kept * clipped(ratio, advantage, 0.2, 0.2)).mean()

    return mean([of(*one) for one in responses])


PAPERS: dict[str, tuple[Callable[[Group], Tensor], Callable[[Sequence[float]], list[float]]]] = {
    "grpo": (grpo, over_deviation),
    "dr_grpo": (dr_grpo, over_mean),
    "rloo": (rloo, over_others),
    "dapo": (dapo, over_deviation),
    "gspo": (gspo, over_deviation),
    "cispo": (cispo, over_deviation),
    "icepop": (icepop, over_deviation),
    "entropic": (entropic, entropic_less_one),
}


def fresh(groups: list[list[Transition]], said: dict[str, Said]) -> None:
    """Have the policy be the one that sampled: RLOO and TTT-Discover know no other."""
    for one in (one for group in groups for one in group):
        said[one.id].logprobs.data = torch.from_numpy(one.behaviour_logprobs)


@functools.cache
def loaded(name: str) -> Any:
    """The section `rl`; a paper's objective is that of a mini-batch."""
    return load([f"rl.preset={name}", "rl.minibatches=1"]).rl


def test_every_preset_has_its_paper():
    assert set(PAPERS) == set(PRESETS)


@pytest.mark.parametrize("name", PAPERS)
@settings(deadline=None, max_examples=15)
@given(groups=batches(), seed=st.integers(0, 1000), row_tokens=st.sampled_from([LONGEST, 60]))
def test_a_preset_has_the_objective_and_the_gradient_of_its_paper(name, groups, seed, row_tokens):
    rl = loaded(name)
    paper, advantage = PAPERS[name]
    wanted, got = leaves(groups, seed), leaves(groups, seed)
    if name in ("rloo", "entropic"):
        fresh(groups, wanted), fresh(groups, got)

    responses = []
    for group in groups:
        members = [one for one in group if not one.masked]
        rewards = [one.reward for one in members]
        if name == "dapo" and len(set(rewards)) < 2:
            continue  # another is sampled in its place, eq. 11
        worth = advantage(rewards) if len(set(rewards)) > 1 else [0.0] * len(members)
        responses += [(one, wanted[one.id], a) for one, a in zip(members, worth, strict=True)]
    expected = paper(responses) if responses else torch.zeros(())
    if responses:
        expected.backward()

    batch = policy_batch.build(groups, VERSION, row_tokens, rl, longest=LONGEST)
    total = 0.0
    for row in batch.rows:
        index = torch.from_numpy(row.row.token_index)

        def of_row(field: str, index: Tensor = index) -> Tensor:
            return torch.cat([getattr(got[one.id], field) for one in batch.members])[index]

        reference = of_row("reference") if rl.kl else None
        given = row, of_row("logprobs"), of_row("entropy"), None, of_row("proximal"), reference, objective(rl)
        loss, _ = row_loss(*given)
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(-expected.item(), rel=1e-4, abs=1e-5)
    for one in (one for group in groups for one in group):
        of_paper, of_preset = (torch.zeros(len(one.response_ids)) for _ in range(2))
        of_paper = of_paper if wanted[one.id].logprobs.grad is None else wanted[one.id].logprobs.grad
        of_preset = of_preset if got[one.id].logprobs.grad is None else got[one.id].logprobs.grad
        assert torch.allclose(of_preset, -of_paper, rtol=1e-4, atol=1e-6), one.id
        assert math.isfinite(of_preset.sum())
