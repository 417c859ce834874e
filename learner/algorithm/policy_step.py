"""The policy loss of one packed row with the figures it adds to the step's metrics; pure functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from learner.algorithm import losses
from learner.algorithm.algorithms import Loss
from learner.algorithm.batching import Row
from learner.algorithm.policy_batch import PolicyRow
from learner.algorithm.policy_sums import WORST, PolicySums


def objective(rl: Any, entropy: float | None = None) -> losses.Objective:
    """The objective that the `rl` section of the configuration asks for; entropy: its weight, if not `rl.entropy`."""
    return losses.Objective(
        loss=rl.loss,
        ratio=rl.ratio,
        clip=rl.clip,
        clip_high=rl.clip_high,
        dual_clip=rl.dual_clip,
        kl=rl.kl,
        entropy=rl.entropy if entropy is None else entropy,
        correction=rl.correction,
        correction_level=rl.correction_level,
        cap=rl.correction_cap,
        mask=rl.mask,
        mask_low=rl.mask_low,
        mask_high=rl.mask_high,
    )


def row_loss(
    row: PolicyRow,
    logprobs: Tensor,
    entropy: Tensor,
    values: Tensor | None,
    proximal: Tensor,
    reference: Tensor | None,
    aim: losses.Objective,
    loss: Loss = losses.policy_loss,
) -> tuple[Tensor, PolicySums]:
    """The loss of a row, with gradient, and its figures.

    logprobs, entropy: float32 [N] of the row's tokens; values: V(s) of its prompts, float32 [S], where it is learned,
    without gradient and the same in every pass; proximal, reference: float32 [N] log-probs.
    """

    def tensor(array: np.ndarray) -> Tensor:
        return torch.tensor(array, device=logprobs.device)

    behaviour, advantages, weights, current = map(tensor, (row.behaviour, row.advantages, row.weights, row.current))
    of_value = torch.zeros((), device=logprobs.device)
    if values is not None:
        baseline = values[tensor(row.row.prompt_index)]
        of_value = losses.value_loss(baseline, advantages, weights)
        advantages = advantages - baseline
    tokens = losses.Tokens(
        behaviour=behaviour,
        proximal=proximal,
        reference=reference,
        advantages=advantages,
        weights=weights,
        current=current,
        lengths=row.row.responses,
    )
    result = loss(logprobs, entropy, tokens, aim)
    gap = losses.logprob_gap(logprobs, behaviour)
    shown = torch.where(current, gap, -1.0) if current.any() else gap
    largest = shown.topk(min(WORST, len(shown)))
    sums = PolicySums(
        loss=result.loss.item(),
        value_loss=of_value.item(),
        ratio=result.ratios.sum().item(),
        clipped=result.clipped_sum.item(),
        entropy=entropy.sum().item(),
        kl=result.kl_sum.item(),
        importance_max=result.importance_max.item(),
        rejected=result.rejected_sum.item(),
        tokens=len(logprobs),
        gap=gap.sum().item(),
        gap_max=gap.max().item(),
        gap_current=(gap * current).sum().item(),
        gap_current_max=(gap * current).max().item(),
        current=int(current.sum()),
        worst=tuple(
            (size, int(row.row.token_index[place]), logprobs[place].item())
            for size, place in zip(largest.values.tolist(), largest.indices.tolist(), strict=True)
            if size >= 0
        ),
        values=() if values is None else tuple(zip(row.row.groups, values.tolist(), strict=True)),
        responses=_of_responses(row.row, result),
    )
    return result.loss, sums


def _of_responses(row: Row, result: losses.PolicyLoss) -> tuple[tuple[int, float, float], ...]:
    """`PolicySums.responses` of a row."""
    starts = np.cumsum([0, *row.responses[:-1]])
    ratios, parts = (np.add.reduceat(values.cpu().numpy(), starts) for values in (result.ratios, result.parts))
    return tuple(zip(row.token_index[starts].tolist(), (ratios / row.responses).tolist(), parts.tolist(), strict=True))
