"""Model folders on disk, and errors that say which folder could not be written.

Invariants: `hf/` loads with plain `AutoModelForCausalLM.from_pretrained`, tokenizer included, and `adapter/`, where
adapters are trained, with peft; the caller makes a checkpoint appear whole by writing to a temporary folder and
renaming it.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from huggingface_hub.constants import SAFETENSORS_INDEX_FILE
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from envs.errors import UserError

HUGGING_FACE = "hf"
ADAPTER = "adapter"
FILE_BYTES = 1 << 30
"""Of tensors in a file, hardly more, but for one that is larger."""
NOT_COPIED = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.gguf", "*.pt", "*.pth")
"""Weight files of the starting model; the rest of its folder (tokenizer, chat template) belongs to the trained one."""


class CheckpointError(UserError):
    """A checkpoint that could not be written or read; the message names the folder."""


def write_hugging_face(
    folder: Path,
    model: PreTrainedModel,
    named: Iterable[tuple[str, Tensor]],
    weights: Iterable[tuple[str, Tensor]],
    source: Path,
) -> None:
    """Write a model's config and weights, and the other files of `source`, into `folder`.

    named: the parameters by Hugging Face name, for their shapes; weights: their values, as they come. A file is written
    as soon as its weights have come: hardly more than `FILE_BYTES` are held in host memory.
    """
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*NOT_COPIED), dirs_exist_ok=True)
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = [type(model).__name__], str(model.dtype).removeprefix("torch.")
    config.save_pretrained(folder)
    shapes = {name: whole(parameter) for name, parameter in named}
    plan = split_torch_state_dict_into_shards(shapes, max_shard_size=FILE_BYTES)
    came: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in weights:
        file = plan.tensor_to_filename[name]
        came[file][name] = tensor.cpu().contiguous()
        if len(came[file]) == len(plan.filename_to_tensors[file]):
            save_file(came.pop(file), folder / file, {"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / SAFETENSORS_INDEX_FILE).write_text(json.dumps(index, indent=2))


def whole(parameter: Tensor) -> Tensor:
    """On the meta device: what a parameter is when it is gathered."""
    return torch.empty(getattr(parameter, "ds_shape", parameter.shape), dtype=parameter.dtype, device="meta")


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
