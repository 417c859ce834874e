"""What the vLLM engine is built with, on a CPU, on whole GPUs, or on a share of one.

Invariants: an engine on a shared card takes the memory of its share and no more, whatever else runs there, and says so
where the model does not fit; what is compiled is kept in the project's cache, so that the next engine starts warm.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from actors.policy.sizes import ModelSize
from actors.runtime.remote import KEPT_MEMORY
from envs.cache import compiled
from envs.errors import UserError

GIB = 1 << 30
FREE = 0.1
"""Of a card's memory that is left to the driver, the processes' contexts and the fragments between allocations."""
RESERVE = 1.5 * GIB
"""Of an engine's share that its context, its CUDA graphs and small buffers take, whatever the model."""
BATCHED_TOKENS = {"cpu": 2048, "gpu": 8192}
"""Prompt tokens that one pass of the model reads at least."""
GRAPH_STEPS = 4
"""Learner steps from which on recording CUDA graphs (four times as fast; a quarter of a minute) is worth it."""
COMPILED_STEPS = 30
"""From which on compiling the model (half a minute at its first start; a tenth faster than graphs alone) is, too."""


class EngineMemoryError(UserError):
    """An engine that does not fit into its share of a card; the message says what it would take."""


class WrongBuild(UserError):
    """A vLLM that cannot serve where the configuration wants it; the message says what to do."""


def engine_arguments(cfg: Any, model_dir: str) -> dict[str, Any]:
    """Arguments of `AsyncEngineArgs`.

    Raises:
        EngineMemoryError: the share of the card is too small for model and one sequence.
        WrongBuild: the installed vLLM is not for this device.
    """
    from vllm.config.weight_transfer import WeightTransferConfig

    device = _on_gpu(cfg, model_dir) if cfg.actors.gpus else _on_cpu(cfg)
    return {
        "model": model_dir,
        "dtype": cfg.model.dtype,
        "max_model_len": cfg.model.context,
        "max_num_seqs": cfg.actors.sequences,
        "max_num_batched_tokens": batched_tokens(cfg),
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",  # a model's own top-p or top-k would change the sampling distribution
        "weight_transfer_config": WeightTransferConfig(backend="object_store"),
        "worker_extension_cls": "actors.policy.weights_engine.WorkerExtension",
        "disable_log_stats": True,
        **device,
    }


def batched_tokens(cfg: Any) -> int:
    return max(BATCHED_TOKENS["gpu" if cfg.actors.gpus else "cpu"], cfg.model.context)


def _on_cpu(cfg: Any) -> dict[str, Any]:
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        raise WrongBuild(
            "actors.gpus=0, but the vLLM that is installed serves on GPUs only: set actors.gpus (0.5 shares a card "
            "with the learner), or install requirements-cpu.txt"
        )
    from actors.policy import kernels

    return {
        "enforce_eager": True,  # compiled, it is a seventh faster, but needs a C++ compiler and a minute to start
        "enable_chunked_prefill": False,  # vLLM cannot rewind the seed of a half-read prompt on the CPU
        "kv_cache_memory_bytes": int(cfg.actors.kv_cache_gb * GIB),
        "ir_op_priority": kernels.PRIORITY,  # 7 % less time to sample
        "block_size": 32,  # smaller blocks share more of a group's prompt; the default, 128, is a tenth slower
        # vLLM would start one more process just to bind threads to cores, which we leave to Ray.
        "distributed_executor_backend": "vllm.v1.executor.uniproc_executor.UniProcExecutor",
    }


def _on_gpu(cfg: Any, model_dir: str) -> dict[str, Any]:
    share = memory_share(cfg)
    arguments = {"tensor_parallel_size": max(1, int(cfg.actors.gpus)), "gpu_memory_utilization": share}
    if cfg.actors.colocate:
        arguments["enable_sleep_mode"] = True
    if cfg.rl.steps < GRAPH_STEPS:
        arguments["enforce_eager"] = True
    elif cfg.rl.steps < COMPILED_STEPS:
        arguments["compilation_config"] = graphs_only(cfg.actors.sequences)
    if cfg.actors.gpus < 1:  # vLLM would take what others allocate meanwhile for its own
        from vllm.platforms import current_platform

        of_card = current_platform.get_device_total_memory()
        arguments["kv_cache_memory_bytes"] = kv_cache_bytes(cfg, ModelSize.read(Path(model_dir)), share * of_card)
    return arguments


def graphs_only(sequences: int) -> dict[str, Any]:
    """`compilation_config` without compilation: decoding is recorded, for few numbers of sequences, as each takes time.

    sequences: that are decoded at once at most.
    """
    sizes = [1 << power for power in range(sequences.bit_length())]
    return {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": sorted({*sizes, sequences})}


def memory_share(cfg: Any) -> float:
    """Of the memory of each of its cards that an engine may use, in (0, 1)."""
    of_card = 1.0 if cfg.actors.colocate else min(1.0, cfg.actors.gpus)
    return cfg.actors.gpu_memory or of_card * (1 - FREE)


def kv_cache_bytes(cfg: Any, size: ModelSize, memory: float) -> int:
    """What weights and activations leave of `memory` bytes of a card.

    Raises:
        EngineMemoryError: that is not enough for one sequence of `model.context` tokens.
    """
    dtype = cfg.model.dtype
    passed = size.layer_bytes(batched_tokens(cfg), dtype) + size.logit_bytes(cfg.actors.sequences)
    taken, least = size.bytes(dtype) + passed + RESERVE, size.cached_bytes(cfg.model.context, dtype)
    if (left := int(memory - taken)) < least:
        raise EngineMemoryError(
            f"an engine with {memory / GIB:.1f} GiB of its card needs {taken / GIB:.1f} GiB for weights and "
            f"activations and {least / GIB:.1f} GiB for one sequence of model.context={cfg.model.context}: raise "
            "actors.gpu_memory or actors.gpus, or lower model.context or actors.sequences"
        )
    return left


def set_environment(cfg: Any) -> None:
    """What vLLM reads from the environment; its own processes inherit it."""
    os.environ |= KEPT_MEMORY  # new weights take the place of the old: two thirds of an update are faults otherwise
    os.environ |= compiled() | {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # Ray shares the cores out; binding would put all actors on the first
        "OMP_NUM_THREADS": str(max(1, cfg.actors.threads, math.ceil(cfg.actors.cpus))),
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait stall each other on cores that are shared
        "VLLM_ENGINE_READY_TIMEOUT_S": str(int(cfg.actors.deadline)),
        "MLAGENT_ACTOR_PID": str(os.getpid()),
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if not cfg.actors.gpus:  # the one function of vLLM's that is left to compile: 15 s in which nothing is sampled,
        os.environ["TORCHDYNAMO_DISABLE"] = "1"  # and a C++ compiler, for 1 ms of 16 tokens
