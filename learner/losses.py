"""The learner's maths as pure functions of tensors: advantages, the policy loss, and the supervised loss.

Invariants: masked members (infrastructure failures) enter no mean, deviation or loss; a loss is a sum over the given
tokens divided by the token count of the whole batch, so that losses and gradients of any split of the batch add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = 1e-6
"""Keeps the division finite where the rewards of a group hardly differ."""


@dataclass(frozen=True)
class Advantages:
    """Advantages of B responses in G groups."""

    values: Tensor
    """float32 [B]; zero for masked members and in groups whose rewards are equal."""
    informative: Tensor
    """bool [B]: members that contribute to the gradient."""
    equal_groups: int
    """Groups in which the rewards of all unmasked members are equal (or none is unmasked)."""


@dataclass(frozen=True)
class PolicyLoss:
    """The PPO-clip loss of N tokens, with sums for its metrics."""

    loss: Tensor
    """Scalar with gradient."""
    ratio_sum: Tensor
    """Scalar: sum of the ratios to the behaviour policy."""
    clipped_sum: Tensor
    """Scalar: number of tokens whose gradient the clip removed."""


def group_advantages(rewards: Tensor, groups: Tensor, valid: Tensor) -> Advantages:
    """GRPO advantages: (reward − group mean) / (group standard deviation + ε) over the valid members of each group.

    rewards: float [B]; groups: int64 [B], group of each response, 0 … G−1; valid: bool [B], False for infrastructure
    failures. The deviation is the population one (DeepSeekMath, arXiv 2402.03300, eq. 4.1).
    """
    rewards = torch.where(valid, rewards.float(), 0.0)
    weight = valid.float()
    count = int(groups.max()) + 1

    def per_group(values: Tensor) -> Tensor:
        return torch.zeros(count).index_add(0, groups, values * weight)

    members = per_group(torch.ones_like(rewards)).clamp(min=1)
    centred = rewards - (per_group(rewards) / members)[groups]
    deviation = (per_group(centred**2) / members).sqrt()
    varied = deviation > EPSILON
    informative = valid & varied[groups]
    values = torch.where(informative, centred / (deviation[groups] + EPSILON), torch.zeros_like(rewards))
    return Advantages(values, informative, int((~varied).sum()))


def ppo_clip_loss(logprobs: Tensor, behaviour: Tensor, advantages: Tensor, clip: float, tokens: int) -> PolicyLoss:
    """−Σ min(r·A, clamp(r, 1−clip, 1+clip)·A) / tokens, with r = exp(logprob − behaviour log-prob).

    logprobs, behaviour, advantages: float32 [N] per token; only `logprobs` carries gradient. tokens: token count of
    the whole batch (token mean). PPO, arXiv 1707.06347, eq. 7, with the policy that sampled the tokens as the old one.
    """
    ratio = torch.exp(logprobs - behaviour)
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip, 1 + clip) * advantages
    loss = -torch.minimum(unclipped, clipped).sum() / tokens
    return PolicyLoss(loss, ratio.detach().sum(), (clipped < unclipped).sum())


def cross_entropy(logprobs: Tensor, tokens: int) -> Tensor:
    """−Σ logprob / tokens over the response tokens: logprobs float32 [N], tokens of the whole batch."""
    return -logprobs.sum() / tokens


def logprob_gap(logprobs: Tensor, behaviour: Tensor) -> Tensor:
    """|logprob − behaviour log-prob|, float32 [N]: what engine and learner disagree by on the same tokens."""
    return (logprobs.detach() - behaviour).abs()
