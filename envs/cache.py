"""Where a machine keeps what is made or fetched once: models, tasks, packages of experiments, compiled kernels.

Invariant: it is one folder, in or below which everything of this kind lies, so that one variable moves it.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """MLAGENT_CACHE, or ~/.cache/mlagent."""
    return Path(os.environ.get("MLAGENT_CACHE", Path.home() / ".cache" / "mlagent"))


def compiled() -> dict[str, str]:
    """Environment that has vLLM and torch keep what they compile here, so that the next process starts warm."""
    folder = cache_folder() / "compiled"
    return {
        "VLLM_CACHE_ROOT": str(folder / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "FLASHINFER_WORKSPACE_BASE": str(folder / "flashinfer"),
    }
