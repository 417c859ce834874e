"""Norms of an engine on a CPU: vLLM's kernels for them are there too, but it takes them on GPUs only.

Invariant: where a build has no such kernel, or an argument is not one it takes, vLLM does as before.
"""

from __future__ import annotations

import torch
from vllm import ir
from vllm.kernels import vllm_c  # noqa: F401 (registers them)

OPERATIONS = (ir.ops.rms_norm, ir.ops.fused_add_rms_norm)
PRIORITY = {operation.name: ["vllm_c"] for operation in OPERATIONS}
"""The engine argument `ir_op_priority` that asks for them; what follows it is vLLM's own choice."""


def allow() -> None:
    """Have this process's vLLM take them when asked."""
    for operation in OPERATIONS:
        operation.impls["vllm_c"].supported = hasattr(torch.ops._C, operation.name)
