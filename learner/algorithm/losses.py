"""The learner's losses as pure functions of tensors: the policy loss, the value loss and the supervised loss.

Invariants: a loss is a sum over the given tokens, each with a weight that is of the whole batch
(learner/algorithm/advantages.py), and what concerns a whole response is given all its tokens, so that losses and
gradients of any split of the batch over responses add up; only the log-probs, entropies and values of the model being
trained carry gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_LOG = 20.0
"""Of a weight, so that the product of a long response's ratios stays finite."""


@dataclass(frozen=True)
class Objective:
    """What is maximised, token by token; see `policy_loss`."""

    loss: str = "ppo"
    ratio: str = "token"
    clip: float = 0.2
    clip_high: float = 0.0
    dual_clip: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    correction: str = "none"
    correction_level: str = "token"
    cap: float = 2.0
    mask: str = "none"
    mask_low: float = 0.5
    mask_high: float = 5.0


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
    lengths: tuple[int, ...]
    """Of the responses whose tokens these are, end to end; they add up to N."""


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
    """Scalar: number of tokens whose policy gradient a clip removed, or bounded (cispo)."""
    kl_sum: Tensor
    """Scalar: sum of the estimates of KL(policy ‖ reference)."""
    importance_max: Tensor
    """Scalar: largest correction of a token."""
    rejected_sum: Tensor
    """Scalar: number of tokens that a mask leaves without policy gradient."""


def policy_loss(logprobs: Tensor, entropy: Tensor, tokens: Tokens, objective: Objective) -> PolicyLoss:
    """Σ weight · (−w · surrogate + kl · KL − entropy · H) over N tokens; logprobs, entropy: float32 [N] with gradient.

    * ratio r: of the token's probabilities, or that of the whole response to the power of 1 / its length, for each of
      its tokens (`sequence`: GSPO, arXiv 2507.18071, eq. 7). With low = 1 − clip, high = 1 + (clip_high or clip)
      (clip-higher: DAPO, arXiv 2503.14476, eq. 8):
    * loss `ppo`: surrogate = min(r·A, clamp(r, low, high)·A): PPO-clip, arXiv 1707.06347, eq. 7. With `dual_clip` c > 1
      it is at least c·A where A < 0, so that one very unlikely token cannot dominate (arXiv 1912.09729).
      `cispo`: clamp(r, low, high)·A · log π with no gradient through the ratio, so that no token loses its own
      (MiniMax-M1, arXiv 2506.13585, eq. 4).
    * correction `none`: r is the ratio to the policy that sampled, w = 1. `decoupled`: r is the ratio to the proximal
      policy and w = π_proximal / π_behaviour (arXiv 2110.00641; AReaL, arXiv 2505.24298), so that the clip bounds the
      update, not the data's age nor what engine and learner disagree by; `truncated`: w is at most `cap` (truncated
      importance sampling, IMPALA, arXiv 1802.01561). With `correction_level` `sequence` w is that of the response.
    * mask: w = 0 where π_proximal / π_behaviour is outside `mask_low` … `mask_high`, of the token (IcePop, arXiv
      2510.18855), of the response, or of the response to the power of 1 / its length (`geometric`).
    * KL: the k3 estimate q − log q − 1 with q = π_reference / π (Schulman 2020), never negative.
    """
    old = tokens.behaviour if objective.correction == "none" else tokens.proximal
    difference = logprobs - old
    ratio = torch.exp(
        _of_responses(difference, tokens.lengths, "geometric" if objective.ratio == "sequence" else "token")
    )
    importance, kept = _corrections(tokens, objective)
    bounded = ratio.clamp(1 - objective.clip, 1 + (objective.clip_high or objective.clip))
    if objective.loss == "cispo":
        surrogate = bounded.detach() * tokens.advantages * logprobs
        clipped = (bounded != ratio) & (tokens.advantages != 0)
    else:
        unclipped = ratio * tokens.advantages
        surrogate = torch.minimum(unclipped, bounded * tokens.advantages)
        if objective.dual_clip:
            least = torch.where(tokens.advantages < 0, objective.dual_clip * tokens.advantages, -torch.inf)
            surrogate = torch.maximum(surrogate, least)
        clipped = surrogate != unclipped
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
        clipped_sum=clipped.sum(),
        kl_sum=kl.detach().sum(),
        importance_max=importance.max(),
        rejected_sum=(~kept).sum(),
    )


def _corrections(tokens: Tokens, objective: Objective) -> tuple[Tensor, Tensor]:
    """(w of each token, bool: whether the mask keeps it); [N] without gradient."""
    off = tokens.proximal - tokens.behaviour
    weight = torch.ones_like(off)
    if objective.correction != "none":
        weight = torch.exp(_of_responses(off, tokens.lengths, objective.correction_level).clamp(max=LARGEST_LOG))
        if objective.correction == "truncated":
            weight = weight.clamp(max=objective.cap)
    if objective.mask == "none":
        return weight, torch.ones_like(tokens.current)
    by = torch.exp(_of_responses(off, tokens.lengths, objective.mask).clamp(max=LARGEST_LOG))
    kept = (objective.mask_low <= by) & (by <= objective.mask_high)
    return torch.where(kept, weight, 0.0), kept


def _of_responses(logs: Tensor, lengths: tuple[int, ...], level: str) -> Tensor:
    """[N]: of each token its log-ratio (`token`), the sum of its response (`sequence`) or the mean (`geometric`)."""
    if level == "token":
        return logs
    whole = torch.mean if level == "geometric" else torch.sum
    return torch.cat([whole(one).expand(len(one)) for one in logs.split(lengths)])


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
