"""LoRA (arXiv 2106.09685): beside each linear layer two narrow float32 matrices A and B, which alone are trained.

The layers are peft's, but for what they multiply by: W + scale · B·A, rounded to the type of W, which is the matrix
that engines are given. (peft's own multiply by W and by B·A one after the other; what that learns and the rounding of W
swallows would never be served.) The gradient passes the rounding as if it were not there, and no gradient of the size
of W is ever held. Invariants: what a layer multiplies by, what is published and what is exported are the same bits;
before the first step that is W; W and all that has no adapter never change.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear, LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from envs.errors import UserError
from learner.model.policy_model import UnsupportedModelError

NAME = "default"
"""Of the adapters, as peft has it."""
PREFIX = "base_model.model."
"""Of names in peft's files."""
FILE = "adapter_model.safetensors"


class LoraError(UserError):
    """Adapters that the model cannot have; the message names the key."""


class MergedLinear(Linear):
    """A linear layer with adapters; multiplies by what is served."""

    reference: tuple[Tensor, Tensor] | None = None
    """A and B of the reference policy."""
    refers = False
    """Whether to multiply by the reference's weight."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in]; returns [..., out]."""
        a, b = self.reference if self.refers else (self.lora_A[NAME].weight, self.lora_B[NAME].weight)
        return _Product.apply(x, self.base_layer.weight, self.base_layer.bias, a, b, self.scaling[NAME])


class _Product(torch.autograd.Function):
    """x · (W + scale · B·A)ᵀ + bias, with gradients of x, A and B."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        return F.linear(x, merged(weight, a, b, scale), bias)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x, weight, a, b = ctx.saved_tensors
        of_x = grad @ merged(weight, a, b, ctx.scale) if ctx.needs_input_grad[0] else None
        outputs, inputs = grad.flatten(0, -2), x.flatten(0, -2)
        of_a = (outputs @ b.to(grad.dtype)).T @ inputs
        of_b = outputs.T @ (inputs @ a.to(x.dtype).T)
        return of_x, None, None, of_a.to(a.dtype) * ctx.scale, of_b.to(b.dtype) * ctx.scale, None


def merged(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """W + scale · B·A, added in float32 and rounded to the type of W.

    weight: [out, in]; a: float32 [r, in]; b: float32 [out, r].
    """
    return ((b * scale) @ a).add_(weight).to(weight.dtype)


def attach(model: PreTrainedModel, rank: int, alpha: float, targets: Sequence[str], seed: int) -> None:
    """Give the model's linear layers adapters, and freeze all else. They add nothing yet.

    targets: names of layers, none for all but the output head; seed: of A.

    Raises:
        LoraError: no layer has such a name, or one is narrower than the rank.
        UnsupportedModelError: a layer is not a plain linear one.
    """
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets) or "all-linear", lora_dropout=0.0)
    config._register_custom_module({nn.Linear: MergedLinear})
    with torch.random.fork_rng(devices=[]):  # on a CPU: the same on all ranks
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(config, model, NAME)
        except (
            ValueError
        ) as error:  # peft's only word for layers that are not there, or of a kind that it does not know
            raise LoraError(f"learner.lora.targets={list(targets)}: {error}") from error
    missing = set(targets) - {name.rpartition(".")[2] for name, _ in layers(model)}
    if missing:
        raise LoraError(f"learner.lora.targets: the model has no linear layer {', '.join(sorted(missing))}")
    for name, layer in layers(model):
        if not isinstance(layer, MergedLinear):
            raise UnsupportedModelError(
                f"{type(model).__name__}: {name} is a {type(layer.base_layer).__name__}, which learner.lora does not "
                "know: leave it out of learner.lora.targets, or set learner.lora.rank=0"
            )
        if rank > (narrowest := min(layer.in_features, layer.out_features)):
            raise LoraError(f"learner.lora.rank={rank} is above the width of {name}, {narrowest}")
        layer.lora_A.float()  # peft gives them the type of the model
        layer.lora_B.float()


def layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """(name, layer) of each that has adapters."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))


def weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(name in the Hugging Face model, parameter) of all but the adapters."""
    for name, parameter in model.named_parameters():
        if ".lora_" not in name:
            yield name.replace(".base_layer.", "."), parameter


def adapters(model: nn.Module) -> dict[nn.Parameter, tuple[nn.Parameter, nn.Parameter, float]]:
    """By the weight that they belong to: A, B and their scale."""
    return {
        layer.base_layer.weight: (layer.lora_A[NAME].weight, layer.lora_B[NAME].weight, layer.scaling[NAME])
        for _, layer in layers(model)
    }


def adapter_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(name in peft's files, parameter) of the adapters."""
    for name, layer in layers(model):
        yield f"{PREFIX}{name}.lora_A.weight", layer.lora_A[NAME].weight
        yield f"{PREFIX}{name}.lora_B.weight", layer.lora_B[NAME].weight


def write(folder: Path, model: PreTrainedModel, values: Mapping[str, Tensor], base: str) -> None:
    """Write a folder that `peft.PeftModel.from_pretrained` takes.

    values: by the names of `adapter_parameters`; base: what the adapters are of, for whoever reads the folder.
    """
    config = model.peft_config[NAME]
    config.base_model_name_or_path = base
    config.save_pretrained(str(folder))
    save_file({name: value.contiguous() for name, value in values.items()}, folder / FILE, {"format": "pt"})


def hold_reference(model: nn.Module, folder: Path) -> None:
    """Take the adapters of a folder that `write` made as those of the reference policy; all ranks hold them whole."""
    stored = load_file(folder / FILE)
    for name, layer in layers(model):
        device = layer.lora_A[NAME].weight.device
        layer.reference = tuple(stored[f"{PREFIX}{name}.lora_{part}.weight"].to(device) for part in "AB")


@contextlib.contextmanager
def as_reference(model: nn.Module) -> Iterator[None]:
    """Within, the model is the reference policy."""
    every: Iterable[LoraLayer] = [layer for _, layer in layers(model)]
    try:
        for layer in every:
            layer.refers = True
        yield
    finally:
        for layer in every:
            layer.refers = False
