"""The objectives as their papers and the peers state them, token after token: what the learner is held against.

It shares nothing with the learner but its configuration and transitions: no packing, no batches of tensors, double
precision. Advantages: DeepSeekMath (2402.03300), Dr. GRPO (2503.20783), RLOO (2402.14740), PPO's R − V(s). Clipping:
PPO (1707.06347) in the form of OpenAI's Spinning Up; higher above (2503.14476); dual clip (1912.09729); CISPO
(2506.13585); of the response's ratio: GSPO (2507.18071). Weights: decoupled PPO (2110.00641), truncated as in IMPALA
(1802.01561); masks: IcePop (2510.18855) and of whole responses. KL: Schulman's k3. Aggregation: DAPO's, GRPO's, sums
and Dr. GRPO's.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from envs.records import Outcome, Transition

EPSILON = 1e-6


@dataclass(frozen=True)
class Said:
    """What models say of a response of R tokens: float [R]."""

    logprobs: Tensor
    entropy: Tensor
    proximal: Tensor
    """Log-probs of the policy as it was when this learner step began."""
    reference: Tensor
    value: Tensor
    """Scalar: V of its prompt."""


@dataclass(frozen=True)
class Token:
    """Figures of a token that has a gradient."""

    response: str
    part: float
    """Of the loss, that of the value left out."""
    ratio: float
    clipped: bool
    weight: float
    """That corrects for what sampled it; 0 where it is masked."""
    kl: float


def plain_loss(
    groups: Sequence[Sequence[Transition]], rl: Any, said: Mapping[str, Said], longest: int
) -> tuple[Tensor, Tensor, list[Token]]:
    """(loss of the policy, loss of V, figures of the tokens); rl: the configuration; said: by transition id;
    longest: tokens that a response can have."""
    valid = [one for group in groups if _counts(group, rl) for one in group if one.outcome is not Outcome.INFRA_FAILURE]
    total_tokens = sum(len(one.response_ids) for one in valid)
    policy, of_value, figures = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64), []
    advantages = plain_advantages(groups, rl, said)
    for group in groups:
        members = [one for one in group if one.outcome is not Outcome.INFRA_FAILURE]
        alike = rl.algorithm != "ppo" and len({one.reward for one in members}) < 2
        if not _counts(group, rl) or (alike and not rl.kl and not rl.entropy):
            continue
        for one in members:
            its = Said(*(getattr(said[one.id], field).double() for field in Said.__dataclass_fields__))
            advantage = advantages[one.id]
            length = len(one.response_ids)
            share = {
                "token": 1 / total_tokens,
                "sequence": 1 / (len(valid) * length),
                "sequence_sum": 1 / len(valid),
                "constant": 1 / (len(valid) * longest),
            }[rl.aggregation]
            for place in range(length):
                term, figure = _token(one, place, its, advantage, rl)
                policy = policy + share * term
                figures.append(Token(one.id, share * term.item(), *figure))
            if rl.algorithm == "ppo":
                of_value = of_value + share * length * (its.value - one.reward) ** 2
    return policy, of_value, figures


def _counts(group: Sequence[Transition], rl: Any) -> bool:
    """Whether the group is of the batch: another may have been sampled in its place."""
    rewards = {one.reward for one in group if one.outcome is not Outcome.INFRA_FAILURE}
    return rl.algorithm == "ppo" or not rl.refill or len(rewards) > 1


def plain_advantages(groups: Sequence[Sequence[Transition]], rl: Any, said: Mapping[str, Said]) -> dict[str, float]:
    """By transition id; none of failures."""
    advantages = {}
    for group in groups:
        members = [one for one in group if one.outcome is not Outcome.INFRA_FAILURE]
        rewards = [one.reward for one in members]
        for number, one in enumerate(members):
            advantages[one.id] = _advantage(rl.algorithm, rewards, number, said[one.id].value.item())
    return advantages


def _advantage(algorithm: str, rewards: Sequence[float], number: int, value: float) -> float:
    own, others = rewards[number], [*rewards[:number], *rewards[number + 1 :]]
    if algorithm == "ppo":
        return own - value
    if len(set(rewards)) < 2:
        return 0.0
    if algorithm == "rloo":
        return own - statistics.fmean(others)
    if algorithm == "centred":
        return own - statistics.fmean(rewards)
    return (own - statistics.fmean(rewards)) / (statistics.pstdev(rewards) + EPSILON)


def _token(one: Transition, place: int, its: Said, advantage: float, rl: Any) -> tuple[Tensor, tuple]:
    behaviour, length = torch.from_numpy(one.behaviour_logprobs).double(), len(one.response_ids)
    logprob = its.logprobs[place]
    off = its.proximal - behaviour
    of = {"token": off[place], "sequence": off.sum(), "geometric": off.sum() / length}
    weight = 1.0
    if rl.correction != "none":
        weight = math.exp(of[rl.correction_level].item())
        if rl.correction == "truncated":
            weight = min(weight, rl.correction_cap)
    if rl.mask != "none" and not rl.mask_low <= math.exp(of[rl.mask].item()) <= rl.mask_high:
        weight = 0.0
    old = behaviour if rl.correction == "none" else its.proximal
    ratio = torch.exp(logprob - old[place])
    if rl.ratio == "sequence":
        ratio = torch.exp((its.logprobs - old).sum() / length)
    high = 1 + (rl.clip_high or rl.clip)
    if rl.loss == "cispo":
        bounded = min(max(ratio.item(), 1 - rl.clip), high)
        clipped = advantage != 0 and bounded != ratio.item()
        term = -weight * advantage * bounded * logprob
    else:
        low, high = (-math.inf, high) if advantage >= 0 else (1 - rl.clip, rl.dual_clip or math.inf)
        clipped = advantage != 0 and not low <= ratio.item() <= high
        term = -weight * advantage * ratio.clamp(low, high)
    kl = 0.0
    if rl.kl:
        difference = its.reference[place] - logprob
        k3 = (torch.exp(difference) - 1) - difference
        term, kl = term + rl.kl * k3, k3.item()
    term = term - rl.entropy * its.entropy[place]
    return term, (ratio.item(), clipped, weight, kl)
