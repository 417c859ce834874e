"""Model folders on disk, and errors that say which folder could not be written.

Invariants: `hf/` loads with plain `AutoModelForCausalLM.from_pretrained`, tokenizer included; the caller makes a
checkpoint appear whole by writing to a temporary folder and renaming it; reading one runs nothing that it names.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from torch import Tensor
from transformers import PreTrainedModel

from envs.errors import UserError

HUGGING_FACE = "hf"
WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Environment variable of PyTorch."""
NOT_COPIED = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.gguf", "*.pt", "*.pth")
"""Weight files of the starting model; the rest of its folder (tokenizer, chat template) belongs to the trained one."""


class CheckpointError(UserError):
    """A checkpoint that could not be written or read; the message names the folder."""


def write_hugging_face(folder: Path, model: PreTrainedModel, weights: Mapping[str, Tensor], source: Path) -> None:
    """Write `weights` (named as in `model`) with the model's config, and the other files of `source`, into `folder`."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*NOT_COPIED), dirs_exist_ok=True)
    model.save_pretrained(folder, state_dict=dict(weights))


@contextlib.contextmanager
def data_only() -> Iterator[None]:
    """Within, `torch.load` builds tensors and plain data only, although DeepSpeed asks it for whatever a file names:
    a checkpoint may have been copied from anywhere."""
    os.environ[WEIGHTS_ONLY] = "1"
    try:
        with torch.serialization.safe_globals([fragment_address, ZeroStageEnum, LossScaler]):
            yield
    finally:
        del os.environ[WEIGHTS_ONLY]


@contextlib.contextmanager
def naming(folder: Path, verb: str) -> Iterator[None]:
    """Turn a failed write or read under `folder` into CheckpointError("cannot <verb> checkpoint …").

    PyTorch reports a full disk as a RuntimeError and safetensors as an error of its own, so every kind is caught.
    """
    try:
        yield
    except Exception as error:
        free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
        raise CheckpointError(
            f"cannot {verb} checkpoint {folder} ({free / 2**20:.0f} MiB free on its disk): {error}"
        ) from error
