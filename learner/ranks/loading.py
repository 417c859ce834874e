"""A model is read into the ranks: whole at ZeRO stages 0 to 2, and at stage 3 parameter by parameter.

Invariant: at stage 3 no rank ever holds more than its part of the model and one whole parameter, neither in host memory
nor on its card. Rank 0 alone reads the files, which it maps rather than reads into memory.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from learner.config.schema import Config
from learner.model.policy_model import PolicyModel, UnsupportedModelError

OFFLOADED = {"none": (), "optimizer": ("optimizer",), "all": ("optimizer", "param")}


def load(
    folder: Path, dtype: torch.dtype, rank: int, config: dict[str, Any], gradient_checkpointing: bool = False
) -> PolicyModel:
    """The model of a Hugging Face folder, for `deepspeed.initialize`; all ranks call it at once, in their group.

    config: DeepSpeed's.

    Raises:
        UnsupportedModelError: at stage 3, files that do not hold the parameters by the names of the code.
    """
    if config["zero_optimization"]["stage"] < 3:
        return PolicyModel.load(folder, dtype, gradient_checkpointing)
    policy = PolicyModel.empty(folder, dtype, gradient_checkpointing)
    device = torch.device(get_accelerator().current_device_name())
    with Stored(folder) if rank == 0 else contextlib.nullcontext() as stored:
        if stored:
            stored.require(policy.model)
        _partition(policy, stored, device, config)
        for buffer in policy.buffers():
            buffer.data = buffer.data.to(device)
        for name, buffer in _kept_buffers(policy.model):
            if stored:
                buffer.copy_(stored[name])
            deepspeed.comm.broadcast(buffer, 0)
    return policy


class Stored:
    """The tensors of a folder's safetensors files, by the names that the model's code gives them."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._stack = folder, contextlib.ExitStack()
        self._files: dict[str, Any] = {}
        self._prefix = ""

    def __enter__(self) -> Stored:
        for path in sorted(self._folder.glob("*.safetensors")):
            file = self._stack.enter_context(safe_open(path, framework="pt"))
            self._files |= dict.fromkeys(file.keys(), file)
        return self

    def __exit__(self, *_: object) -> None:
        self._files.clear()
        self._stack.close()

    def __getitem__(self, name: str) -> Tensor:
        return self._files[self._key(name)].get_tensor(self._key(name))

    def _key(self, name: str) -> str:
        """Files of a model without a head leave out how names of one with a head begin."""
        return name if name in self._files else name.removeprefix(self._prefix)

    def require(self, model: PreTrainedModel) -> None:
        """Raises UnsupportedModelError where a parameter of the model is missing or has another shape."""
        self._prefix = f"{model.base_model_prefix}."
        for name, wanted in (*model.named_parameters(), *_kept_buffers(model)):
            if (file := self._files.get(self._key(name))) is None:
                raise UnsupportedModelError(
                    f"{self._folder} has no {name} in its *.safetensors: learner.zero_stage=3 reads files whose names "
                    "are those of the model's code, as save_pretrained of this version of transformers writes them"
                )
            if (shape := file.get_slice(self._key(name)).get_shape()) != list(wanted.shape):
                raise UnsupportedModelError(
                    f"{self._folder}: {name} is {shape} in its file, and {list(wanted.shape)} by config.json"
                )


def _kept_buffers(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Those that are not computed from the configuration."""
    kept = model.state_dict().keys()
    return [(name, buffer) for name, buffer in model.named_buffers() if name in kept]


def _partition(policy: PolicyModel, stored: Stored | None, device: torch.device, config: dict[str, Any]) -> None:
    """Give each parameter its values, of which this rank keeps its part; those of rank 0 are everybody's."""
    done: dict[Tensor, nn.Parameter] = {}  # an output head may be tied to the embedding
    convert = None
    # One place for each in turn: what is freed between parts that are kept would be holes, half as much again.
    room = torch.empty(max(one.nbytes for one in policy.model.parameters()), dtype=torch.uint8, device=device)
    for name, empty in policy.model.named_parameters():
        values = room[: empty.nbytes].view(empty.dtype).view(empty.shape)
        if stored:
            values.copy_(stored[name])
        done[empty] = nn.Parameter(values, empty.requires_grad)
        if convert:
            convert([done[empty]])
        else:  # DeepSpeed offers the rest as a method of a parameter that it has converted
            deepspeed.zero.Init(module=nn.ParameterList([done[empty]]), config_dict_or_path=config)
            convert = done[empty].convert_to_zero_parameters
    for module in policy.modules():
        for name, empty in module.named_parameters(recurse=False):
            module._parameters[name] = done[empty]


def deepspeed_config(cfg: Config) -> dict[str, Any]:
    """DeepSpeed's configuration. In bfloat16 the optimiser keeps float32 master weights at every ZeRO stage; adapters
    are float32 themselves."""
    zero: dict[str, Any] = {"stage": cfg.learner.zero_stage, "overlap_comm": False}
    for part in OFFLOADED[cfg.learner.offload]:
        zero[f"offload_{part}"] = {"device": "cpu", "pin_memory": cfg.learner.gpus > 0}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": cfg.learner.grad_clip,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # the same AdamW as without offload, so that offload changes no result
        "steps_per_print": None,
    }
    if cfg.model.dtype == "bfloat16" and not cfg.learner.lora.rank:
        config["bf16"] = {"enabled": True}
        if cfg.learner.zero_stage > 0:  # stage 0 can only accumulate gradients in the model's type
            config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config
