"""The state-value baseline V(s) of ppo: linear in the direction of the hidden state at the prompt's last token.

It is a few hundred numbers beside a policy of millions, so every rank holds it whole, in float32, with an optimiser of
its own: neither sharding nor the clipping of the policy's gradient touch it. Invariants: equal on all ranks; its
gradient never reaches the policy.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn


class ValueHead(nn.Module):
    """V(s) = w · features(s) + b, zero at first."""

    def __init__(self, width: int, rate: float, device: torch.device) -> None:
        """width: D of the features; rate: learning rate."""
        super().__init__()
        self.linear = nn.Linear(width, 1, device=device)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        self.optimizer = torch.optim.Adam(self.parameters(), rate)

    def forward(self, features: Tensor) -> Tensor:
        """float32 [S] of features float32 [S, D]."""
        return self.linear(features)[:, 0]

    def step(self) -> None:
        """One optimiser step on the gradient summed over the ranks; all ranks call it."""
        for parameter in self.parameters():
            dist.all_reduce(parameter.grad)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Its parameters under names that no policy has."""
        return self.named_parameters(prefix="value_head")
