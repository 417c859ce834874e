"""The state-value baseline V(s) of ppo: linear in the direction of the hidden state at the prompt's last token.

It is a few thousand numbers beside a policy of millions, so every rank holds it whole, in float32, and it learns by
itself: neither sharding nor the clipping of the policy's gradient touch it, and of one batch it makes as many steps as
it needs, since the features are there. Invariants: equal on all ranks; its gradient never reaches the policy; a step
moves V(s) by as much whatever the model's width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from learner.algorithm import losses
from learner.algorithm.policy_batch import PolicyRow

BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class Seen:
    """What V(s) learns from one row of N response tokens to S prompts."""

    features: Tensor
    """float32 [S, D], of length 1 each."""
    prompt: Tensor
    """int64 [N]: the prompt of each token."""
    returns: Tensor
    """float32 [N]: what its response earned."""
    weights: Tensor
    """float32 [N]: of the token in the batch's loss."""


def seen(features: Tensor, row: PolicyRow) -> Seen:
    """Of a row and the features of its prompts."""
    prompt, returns, weights = (
        torch.as_tensor(array, device=features.device) for array in (row.row.prompt_index, row.advantages, row.weights)
    )
    return Seen(features, prompt, returns, weights)


class ValueHead(nn.Module):
    """V(s) = w · features(s) + b, zero at first."""

    def __init__(self, width: int, rate: float, device: torch.device) -> None:
        """width: D of the features; rate: about what a step of Adam moves V(s) by.

        Adam moves every weight by its learning rate, and features of length 1 add up to √D at most: so the rate of w is
        over √D, and w · features moves by `rate` at most, as b does, whatever the width.
        """
        super().__init__()
        self.linear = nn.Linear(width, 1, device=device)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        groups = [
            {"params": [self.linear.weight], "lr": rate / math.sqrt(width)},
            {"params": [self.linear.bias], "lr": rate},
        ]
        self.optimizer = torch.optim.Adam(groups, betas=BETAS)

    def forward(self, features: Tensor) -> Tensor:
        """float32 [S] of features float32 [S, D]."""
        return self.linear(features)[:, 0]

    def learn(self, rows: Sequence[Seen], steps: int) -> None:
        """Optimiser steps on the value loss of a batch, whose rows lie on all ranks; all ranks call it."""
        for _ in range(steps):
            self.optimizer.zero_grad(set_to_none=False)
            for row in rows:
                losses.value_loss(self(row.features)[row.prompt], row.returns, row.weights).backward()
            for parameter in self.parameters():
                dist.all_reduce(parameter.grad)
            self.optimizer.step()

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Its parameters under names that no policy has."""
        return self.named_parameters(prefix="value_head")
