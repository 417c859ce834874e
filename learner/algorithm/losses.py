"""The learner's losses as pure functions of tensors: the policy loss, the value loss and the supervised loss.

Invariants: a loss is a weighted sum over the given tokens, and the weights of a batch add up to one
(learner/algorithm/advantages.py), so that losses and gradients of any split of the batch add up; only the
log-probs, entropies and values of the model being trained carry gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """What is maximised, token by token; see `policy_loss`."""

    clip: float = 0.2
    dual_clip: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    correction: str = "none"
    cap: float = 2.0


@dataclass(frozen=True)
class Tokens:
    """What is known of N response tokens besides the trained model; float32 [N] unless said otherwise."""

    behaviour: Tensor
    """Log-probs under the policy that sampled."""
    proximal: Tensor
    """Log-probs under the weights at the start of this learner step."""
    reference: Tensor | None
    """Log-probs under the reference policy; None where `kl` is 0."""
    advantages: Tensor
    weights: Tensor
    """Of each token in the batch's loss."""
    current: Tensor
    """bool: sampled under the very weights that this step starts from."""


@dataclass(frozen=True)
class PolicyLoss:
    """The loss of N tokens, with what its metrics are made of; float32."""

    loss: Tensor
    """Scalar with gradient."""
    ratios: Tensor
    """[N] without gradient: the ratios that are clipped."""
    parts: Tensor
    """[N] without gradient: what each token adds to the loss."""
    clipped_sum: Tensor
    """Scalar: number of tokens whose policy gradient a clip removed."""
    kl_sum: Tensor
    """Scalar: sum of the estimates of KL(policy ‖ reference)."""
    importance_max: Tensor
    """Scalar: largest correction of a stale token."""


def policy_loss(logprobs: Tensor, entropy: Tensor, tokens: Tokens, objective: Objective) -> PolicyLoss:
    """Σ weight · (−w · surrogate + kl · KL − entropy · H) over N tokens; logprobs, entropy: float32 [N] with gradient.

    * surrogate = min(r·A, clamp(r, 1−clip, 1+clip)·A): PPO-clip, arXiv 1707.06347, eq. 7. With `dual_clip` c > 1 it is
      at least c·A where A < 0, so that one very unlikely token cannot dominate (arXiv 1912.09729).
    * correction `none`: r is the ratio to the policy that sampled, w = 1. `decoupled`: r is the ratio to the proximal
      policy and w = π_proximal / π_behaviour for stale tokens (arXiv 2110.00641; AReaL, arXiv 2505.24298),
      so that the clip bounds the update, not the data's age; `truncated`: w is at most `cap` (truncated importance
      sampling, IMPALA, arXiv 1802.01561). Tokens sampled under the proximal weights themselves have w = 1.
    * KL: the k3 estimate q − log q − 1 with q = π_reference / π (Schulman 2020), never negative.
    """
    corrected = objective.correction != "none"
    ratio = torch.exp(logprobs - (tokens.proximal if corrected else tokens.behaviour))
    importance = torch.ones_like(ratio)
    if corrected:
        stale = torch.exp(tokens.proximal - tokens.behaviour)
        stale = stale.clamp(max=objective.cap) if objective.correction == "truncated" else stale
        importance = torch.where(tokens.current, importance, stale)
    unclipped = ratio * tokens.advantages
    surrogate = torch.minimum(unclipped, ratio.clamp(1 - objective.clip, 1 + objective.clip) * tokens.advantages)
    if objective.dual_clip:
        least = torch.where(tokens.advantages < 0, objective.dual_clip * tokens.advantages, -torch.inf)
        surrogate = torch.maximum(surrogate, least)
    value = -importance * surrogate
    kl = torch.zeros_like(ratio)
    if tokens.reference is not None:
        difference = tokens.reference - logprobs
        kl = torch.exp(difference) - difference - 1
        value = value + objective.kl * kl
    if objective.entropy:
        value = value - objective.entropy * entropy
    parts = tokens.weights * value
    return PolicyLoss(
        loss=parts.sum(),
        ratios=ratio.detach(),
        parts=parts.detach(),
        clipped_sum=(surrogate != unclipped).sum(),
        kl_sum=kl.detach().sum(),
        importance_max=importance.max(),
    )


def value_loss(values: Tensor, returns: Tensor, weights: Tensor) -> Tensor:
    """Σ weight · (V(s) − reward)²: values, returns, weights float32 [N], each response's repeated for its tokens.

    Weighted as the policy loss is, so that V is the baseline that makes the mean advantage of the batch zero.
    """
    return (weights * (values - returns) ** 2).sum()


def cross_entropy(logprobs: Tensor, tokens: int) -> Tensor:
    """−Σ logprob / tokens over the response tokens: logprobs float32 [N], tokens of the whole batch."""
    return -logprobs.sum() / tokens


def logprob_gap(logprobs: Tensor, behaviour: Tensor) -> Tensor:
    """|logprob − behaviour log-prob|, float32 [N]: what engine and learner disagree by on the same tokens."""
    return (logprobs.detach() - behaviour).abs()
