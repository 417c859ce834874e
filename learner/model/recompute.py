"""What the backward pass computes again on a CPU, instead of holding it from the forward pass.

Of what a layer would hold, most is quick to compute from the rest: attention weights, norms in float32, the gated
activation. To compute it again takes about as long as to write it to memory and to read it back. Invariant: values and
gradients are the same, to the bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

GATED = ("gate_proj", "up_proj", "down_proj", "act_fn")
"""Parts of a feed-forward block that computes down(act(gate(x)) · up(x)), as most models name them."""


def again(function: Callable[..., Any], *args: Any) -> Any:
    """The function's result; of what it computed nothing is held but its arguments, and it is called a second time in
    the backward pass."""
    if not torch.is_grad_enabled():
        return function(*args)
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False, determinism_check="none")


def lighten(model: nn.Module) -> None:
    """Have the model's norms and feed-forward blocks hold less. Blocks of another form than `GATED` are left alone."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = functools.partial(_on_cpu, module.forward, functools.partial(again, module.forward))
        elif all(hasattr(module, name) for name in GATED):
            module.forward = functools.partial(_on_cpu, module.forward, functools.partial(_gated, module))


def _on_cpu(stock: Callable[[Tensor], Tensor], lighter: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    return lighter(hidden) if hidden.device.type == "cpu" else stock(hidden)


def _gated(block: nn.Module, hidden: Tensor) -> Tensor:
    def activated(gate: Tensor, up: Tensor) -> Tensor:
        return block.act_fn(gate) * up

    return block.down_proj(again(activated, block.gate_proj(hidden), block.up_proj(hidden)))
