"""Stands for NCCL, which needs GPUs: vLLM's broadcast of weights over gloo, between processes without a GPU.

`install` runs in learner ranks and actors (Ray's `worker_process_setup_hook`) and, as this module is the worker
extension of the engines, in their workers. Only the communicator is another one: groups, ranks and calls are those of
the product.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from actors.policy.weights_engine import WorkerExtension as Real


class Communicator:
    """What vLLM uses of its `PyNcclCommunicator`."""

    def __init__(self, host: str, port: int, rank: int, world_size: int):
        from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore

        store = TCPStore(host, port, world_size, rank == 0, timedelta(seconds=10))
        self._group = ProcessGroupGloo(PrefixStore("broadcast", store), rank, world_size, timedelta(seconds=10))

    def broadcast(self, tensor: Any, src: int, stream: None) -> None:
        import torch
        from torch.distributed import BroadcastOptions

        options = BroadcastOptions()
        options.rootRank = src
        self._group.broadcast([tensor.view(-1).view(torch.uint8)], options).wait()

    def destroy(self) -> None:
        self._group = None


def install() -> None:
    import torch
    from vllm.distributed.weight_transfer import nccl_engine

    from actors.policy import policy
    from learner.ranks import broadcast

    torch.cuda.current_stream = lambda: None
    broadcast.PACKED = False  # packing copies on CUDA streams
    nccl_engine.open_trainer_endpoint = lambda info: Communicator(
        info.master_address, info.master_port, 0, info.world_size
    )
    nccl_engine.worker_init_process_group = lambda info, parallel: Communicator(
        info.master_address, info.master_port, info.rank_offset + parallel.rank, info.world_size
    )
    arguments = policy.engine_arguments
    if arguments.__name__ != "with_gloo":

        def with_gloo(*args: Any) -> dict[str, Any]:
            return arguments(*args) | {"worker_extension_cls": "tests.gloo_for_nccl.WorkerExtension"}

        policy.engine_arguments = with_gloo


class WorkerExtension(Real):
    """Imported by vLLM in the engine's worker."""


install()
