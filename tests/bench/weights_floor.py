"""In the engine's worker: the time of vLLM's own `load_weights` until it serves what it loaded, the floor of
`weights.py`."""

from __future__ import annotations

import time
from typing import Any

import torch
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from actors.weights import TensorMeta, unpack
from actors.weights_engine import ObjectStoreUpdate, WorkerExtension, _bytes, renew_heads


class Floor(WorkerExtension):
    def load_here(self, updates: list[dict[str, Any]]) -> float:
        """Seconds to load the tensors of all buckets, copied into this process before the clock starts."""
        model, tensors = self.model_runner.model, []
        for update in map(lambda given: ObjectStoreUpdate(**given), updates):
            meta = [TensorMeta(name, dtype, tuple(shape), offset) for name, dtype, shape, offset in update.meta]
            tensors += [(name, tensor.clone()) for name, tensor in unpack(meta, torch.from_numpy(_bytes(update)))]
        began = time.monotonic()
        initialize_layerwise_reload(model)
        model.load_weights(tensors)
        finalize_layerwise_reload(model, self.model_runner.model_config)
        renew_heads(model)
        return time.monotonic() - began
