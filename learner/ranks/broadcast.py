"""The `nccl` way to publish: vLLM's trainer engine on rank 0 broadcasts the weights to the actors' engines.

Rank 0 and the workers of all engines are one group of processes, made anew when other actors are to receive.
Invariants: an actor begins, takes and finishes a version in one call, so that it is never left between two; every rank
takes part in the gathers of ZeRO-3; an actor that joins between two versions gets them through the object store.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ray
from torch import Tensor
from torch.nn import Parameter
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

from actors.policy.weights import is_digested
from actors.pool import Receiver

PACKED = True
"""Many tensors per broadcast."""


class Weights(WeightSource):
    """The learner's parameters as vLLM's trainer engine asks for them."""

    def __init__(
        self, named: Iterable[tuple[str, Parameter]], gathered: Callable[[], Iterable[tuple[str, Tensor]]]
    ) -> None:
        """gathered: gives a fresh pass over (name, full tensor) of `named`; a collective under ZeRO-3."""
        self._metadata = [
            ParamMeta(name, weight.dtype, tuple(getattr(weight, "ds_shape", weight.shape))) for name, weight in named
        ]
        self._gathered = gathered

    def metadata(self) -> list[ParamMeta]:
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self._gathered())


class Actors:
    """vLLM's calls to an inference side (the protocol `VLLMWeightSyncClient`), made to all actors at once."""

    def __init__(self, receivers: Sequence[Receiver], deadline: float):
        self.receivers, self._deadline = receivers, deadline
        self.version, self.digests = 0, {}

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        first, calls = init_info["rank_offset"], []
        for receiver in self.receivers:
            calls.append(receiver.handle.join_group.remote({**init_info, "rank_offset": first}))
            first += receiver.workers
        ray.get(calls, timeout=self._deadline)

    def start_weight_update(self) -> None:
        """Part of `update_weights`."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        handles = [receiver.handle for receiver in self.receivers]
        calls = [handle.receive_broadcast.remote(self.version, update_info, self.digests) for handle in handles]
        ray.get(calls, timeout=self._deadline)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Part of `update_weights`."""

    def shutdown_weight_transfer_engine(self) -> None:
        """An actor leaves its group when it joins the next."""


class Broadcaster:
    """One rank's part; all ranks make the same calls."""

    def __init__(self, rank: int, source: WeightSource):
        self._rank, self._source = rank, source
        self._trainer: NCCLTrainerWeightTransferEngine | None = None

    @property
    def norms(self) -> set[str]:
        """Names of the weights that are compared by digests."""
        return {meta.name for meta in self._source.metadata() if is_digested(meta.name, meta.shape)}

    def send(self, receivers: Sequence[Receiver], version: int, digests: Mapping[str, str], deadline: float) -> None:
        """Returns when all receivers serve the version.

        digests: what vLLM's digests of some weights must be, by name.
        """
        members = [receiver.name for receiver in self._trainer.client.receivers] if self._trainer else []
        if self._trainer is None or members != [receiver.name for receiver in receivers]:
            self._join(receivers, deadline)
        self._trainer.client.version, self._trainer.client.digests = version, dict(digests)
        self._trainer.send_weights()

    def _join(self, receivers: Sequence[Receiver], deadline: float) -> None:
        if self._trainer:
            self._trainer.shutdown()
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        info = NCCLTrainerInitInfo(
            master_address=ray.util.get_node_ip_address(),
            master_port=port,
            world_size=1 + sum(receiver.workers for receiver in receivers),
            packed=PACKED,
            rank=self._rank,
        )
        client = Actors(receivers, deadline)
        self._trainer = NCCLTrainerWeightTransferEngine.trainer_init(info, client=client, source=self._source)
