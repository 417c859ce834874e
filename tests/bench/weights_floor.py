"""In the engine's worker: the time of vLLM's own `load_weights` until it serves what it loaded, the floor of
`weights.py`."""

from __future__ import annotations

import time
from typing import Any

from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from actors.policy.weights_engine import ObjectStoreUpdate, WorkerExtension, renew_heads


class Floor(WorkerExtension):
    def load_here(self, update: dict[str, Any]) -> float:
        """Seconds to load the tensors of all buckets, copied into this process before the clock starts."""
        model = self.model_runner.model
        tensors = [(name, tensor.clone()) for name, tensor in ObjectStoreUpdate(**update).tensors(self.device)]
        began = time.monotonic()
        initialize_layerwise_reload(model)
        model.load_weights(tensors)
        finalize_layerwise_reload(model, self.model_runner.model_config)
        renew_heads(model)
        return time.monotonic() - began
