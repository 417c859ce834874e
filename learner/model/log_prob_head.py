"""The output head fused with log-softmax: log-probs and entropies, chunk by chunk.

They are recomputed in the backward pass, so that [tokens × vocabulary] is never held.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 512
"""Tokens whose logits are held at once: each chunk costs a pass over the gradient of the whole head."""
BLOCK = 32
"""Of them in float32, so that a CPU's cache holds them from one operation to the next."""


class LogProbHead(nn.Module):
    """The output projection fused with log-softmax; owns its weight, so that ZeRO-3 gathers it around the call."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """hidden: [N, D]; targets: int64 [N]. Returns log-probs and entropies, both float32 [N]."""
        return _TokenLogProbs.apply(hidden, self.weight, targets, temperature)


class _TokenLogProbs(torch.autograd.Function):
    """log softmax(hidden · weightᵀ / temperature)[target] and the entropy, CHUNK tokens at a time, BLOCK in float32."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logprobs = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        normaliser, entropy = torch.empty_like(logprobs), torch.empty_like(logprobs)
        for part in _spans(0, len(targets), CHUNK):
            products = F.linear(hidden[part], weight)
            for rows in _spans(part.start, part.stop, _at_once(hidden)):
                logits = _logits(products[rows.start - part.start : rows.stop - part.start], temperature)
                every = torch.log_softmax(logits, dim=-1)
                logprobs[rows] = every.gather(1, targets[rows, None])[:, 0]
                normaliser[rows] = logits.gather(1, targets[rows, None])[:, 0] - logprobs[rows]
                entropy[rows] = -torch.linalg.vecdot(torch.exp(every, out=logits), every)
        ctx.save_for_backward(hidden, weight, targets, normaliser, entropy)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(
        ctx, grad_logprobs: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Tensor, Tensor | None, None, None]:
        hidden, weight, targets, normaliser, entropy = ctx.saved_tensors
        grad_logprobs = torch.zeros_like(entropy) if grad_logprobs is None else grad_logprobs
        grad_hidden = torch.empty_like(hidden)
        grad_weight: Tensor | None = None
        for part in _spans(0, len(targets), CHUNK):
            products = F.linear(hidden[part], weight)
            for rows in _spans(part.start, part.stop, _at_once(hidden)):
                place = slice(rows.start - part.start, rows.stop - part.start)
                grad = _logits(products[place], ctx.temperature).sub_(normaliser[rows, None])
                of_target, of_entropy = grad_logprobs[rows, None] / ctx.temperature, None
                if grad_entropy is not None:  # dH/dz = −p (log p + H)
                    of_entropy = torch.exp(grad).mul_(grad + entropy[rows, None])
                    of_entropy.mul_(grad_entropy[rows, None] / ctx.temperature)
                grad.exp_().mul_(-of_target).scatter_add_(1, targets[rows, None], of_target)
                if of_entropy is not None:
                    grad.sub_(of_entropy)
                products[place] = grad
            grad_hidden[part] = products @ weight
            if not ctx.needs_input_grad[1]:
                continue
            of_part = products.T @ hidden[part]
            grad_weight = of_part if grad_weight is None else grad_weight.float().add_(of_part)
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None


def _at_once(hidden: Tensor) -> int:
    return BLOCK if hidden.device.type == "cpu" else CHUNK


def _logits(products: Tensor, temperature: float) -> Tensor:
    """float32; may take the memory of `products`."""
    logits = products.float()
    return logits if temperature == 1 else logits.div_(temperature)


def _spans(start: int, end: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, end)) for first in range(start, end, size)]
