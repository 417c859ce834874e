"""A Hugging Face causal LM that maps a packed row to the log-probs of its response tokens.

Two parts differ from the stock model. Attention follows the row's segments (a tree of prompts and their independent
branches), so that its cost is that of the visible pairs only. The output head returns log-probs and entropies chunk by
chunk and recomputes them in the backward pass, so that [tokens × vocabulary] is never held. Invariants: parameter names
are those of the Hugging Face model; values equal those of running each prompt + response on its own.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel

from envs.errors import UserError
from learner.algorithm.batching import Row, Segment

CHUNK = 512
"""Tokens whose logits are held at once: each chunk costs a pass over the gradient of the whole head."""
BLOCK = 32
"""Of them in float32, so that a CPU's cache holds them from one operation to the next."""
DENSE = 1 << 24
"""Scores of a segment's branches in one layer up to which a CPU holds them all (32 MiB in bfloat16): with more, the
products wait for memory and torch's own attention is as fast."""
DENSE_PROMPT = DENSE // 4
"""As `DENSE`, of a prompt: a longer one gains little in time, and its scores are kept for the backward pass."""


class UnsupportedModelError(UserError):
    """A model whose forward pass the packed rows would change."""


class PolicyModel(nn.Module):
    """The trained policy. `model` is the Hugging Face model, with its output head replaced by `LogProbHead`."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        _check_supported(model)
        model.set_output_embeddings(LogProbHead(model.get_output_embeddings().weight))
        self.model = model

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype, gradient_checkpointing: bool = False) -> PolicyModel:
        """The model saved in `folder`, its weights in `dtype`; gradient_checkpointing: recompute each layer's
        activations in the backward pass instead of keeping them."""
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=ATTENTION)
        model.config.use_cache = False
        if gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return cls(model)

    def forward(self, row: Row, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probs and entropies of the row's N response tokens, float32 [N], and features of its S states.

        The features are the directions of the hidden states at the prompts' last tokens, float32 [S, D], detached.

        temperature: divides the logits; that of sampling gives the log-probs of the distribution sampled from.
        """
        device = self.model.get_input_embeddings().weight.device
        hidden = self.model.get_decoder()(
            input_ids=torch.tensor(row.input_ids, device=device)[None],
            position_ids=torch.tensor(row.position_ids, device=device)[None],
            use_cache=False,
            segments=row.segments,
            blocks=block_mask(row.segments, device) if device.type == "cuda" else None,
        ).last_hidden_state[0]
        losses = torch.tensor(row.loss_positions, device=device)
        targets = torch.tensor(row.target_ids, device=device, dtype=torch.int64)
        logprobs, entropy = self.model.get_output_embeddings()(hidden.index_select(0, losses), targets, temperature)
        last = torch.tensor(row.prompt_ends, device=device)
        return logprobs, entropy, F.normalize(hidden.detach()[last].float(), dim=-1)


class LogProbHead(nn.Module):
    """The output projection fused with log-softmax; owns its weight, so that ZeRO-3 gathers it around the call."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """hidden: [N, D]; targets: int64 [N]. Returns log-probs and entropies, both float32 [N]."""
        return _TokenLogProbs.apply(hidden, self.weight, targets, temperature)


class _TokenLogProbs(torch.autograd.Function):
    """log softmax(hidden · weightᵀ / temperature)[target] and the entropy, CHUNK tokens at a time, BLOCK in float32."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logprobs = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        normaliser, entropy = torch.empty_like(logprobs), torch.empty_like(logprobs)
        for part in _spans(0, len(targets), CHUNK):
            products = F.linear(hidden[part], weight)
            for rows in _spans(part.start, part.stop, _at_once(hidden)):
                logits = _logits(products[rows.start - part.start : rows.stop - part.start], temperature)
                every = torch.log_softmax(logits, dim=-1)
                logprobs[rows] = every.gather(1, targets[rows, None])[:, 0]
                normaliser[rows] = logits.gather(1, targets[rows, None])[:, 0] - logprobs[rows]
                entropy[rows] = -torch.linalg.vecdot(torch.exp(every, out=logits), every)
        ctx.save_for_backward(hidden, weight, targets, normaliser, entropy)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(ctx, grad_logprobs: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight, targets, normaliser, entropy = ctx.saved_tensors
        grad_logprobs = torch.zeros_like(entropy) if grad_logprobs is None else grad_logprobs
        grad_hidden = torch.empty_like(hidden)
        grad_weight: Tensor | None = None
        for part in _spans(0, len(targets), CHUNK):
            products = F.linear(hidden[part], weight)
            for rows in _spans(part.start, part.stop, _at_once(hidden)):
                place = slice(rows.start - part.start, rows.stop - part.start)
                grad = _logits(products[place], ctx.temperature).sub_(normaliser[rows, None])
                of_target, of_entropy = grad_logprobs[rows, None] / ctx.temperature, None
                if grad_entropy is not None:  # dH/dz = −p (log p + H)
                    of_entropy = torch.exp(grad).mul_(grad + entropy[rows, None])
                    of_entropy.mul_(grad_entropy[rows, None] / ctx.temperature)
                grad.exp_().mul_(-of_target).scatter_add_(1, targets[rows, None], of_target)
                if of_entropy is not None:
                    grad.sub_(of_entropy)
                products[place] = grad
            grad_hidden[part] = products @ weight
            of_part = products.T @ hidden[part]
            grad_weight = of_part if grad_weight is None else grad_weight.float().add_(of_part)
        return grad_hidden, grad_weight.to(weight.dtype), None, None


def _at_once(hidden: Tensor) -> int:
    return BLOCK if hidden.device.type == "cpu" else CHUNK


def _logits(products: Tensor, temperature: float) -> Tensor:
    """float32; may take the memory of `products`."""
    logits = products.float()
    return logits if temperature == 1 else logits.div_(temperature)


def _spans(start: int, end: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, end)) for first in range(start, end, size)]


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    segments: Sequence[Segment],
    blocks: BlockMask | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention of a packed row: causal in each part of a prompt and in each branch, which see their ancestors whole.

    query: [1, H, T, D]; key, value: [1, G, T, D] with H a multiple of G; blocks: the same as a mask, for a GPU. Returns
    [1, T, H, D].
    """
    if blocks is not None and not dropout:
        attention = _compiled() if query.is_cuda else flex_attention
        options = {"BACKEND": "TRITON"}  # what it would choose for a short row cannot be compiled for every length
        return attention(
            query, key, value, block_mask=blocks, scale=scaling, enable_gqa=True, kernel_options=options
        ).transpose(1, 2), None
    lengths = [length for segment in segments for length in (segment.prompt, sum(segment.branches))]
    # split has a backward pass of one concatenation; slicing would pad every slice's gradient to the row.
    parts = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    outputs = []
    seen = {-1: (key[:, :, :0], value[:, :, :0])}  # by segment: keys and values of its prompt and of those before it
    for index, segment in enumerate(segments):
        prompt, branches = next(parts), next(parts)
        before = seen[segment.parent]
        seen[index] = tuple(torch.cat(pair, dim=2) for pair in zip(before, prompt[1:], strict=True))
        for own, shared, spans, most in (
            (prompt, before, (segment.prompt,), DENSE_PROMPT),
            (branches, seen[index], segment.branches, DENSE),
        ):
            longest = max(spans, default=0)
            scores = query.shape[1] * len(spans) * longest * (shared[0].shape[2] + longest)
            if query.device.type == "cpu" and 0 < scores <= most and not dropout:
                outputs.append(_dense(own, shared, spans, scaling))
            else:
                outputs += _one_by_one(own, shared, spans, scaling, dropout)
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def block_mask(segments: Sequence[Segment], device: torch.device) -> BlockMask:
    """What each token of a row sees, for FlexAttention: one kernel for the row, that leaves out blocks nobody sees."""
    own = [segment.prompt + sum(segment.branches) for segment in segments]
    ends = list(itertools.accumulate(own))  # of each segment with those that continue it, which follow it
    for index in reversed(range(len(segments))):
        if (parent := segments[index].parent) >= 0:
            ends[parent] = max(ends[parent], ends[index])
    until = []  # of each token, the row position up to which it is seen
    for segment, end in zip(segments, ends, strict=True):
        until += [end] * segment.prompt
        for length in segment.branches:
            until += [len(until) + length] * length
    until = torch.tensor(until, device=device)

    def visible(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < until[key])

    return create_block_mask(visible, None, None, len(until), len(until), device=device)


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(flex_attention, dynamic=True)  # rows differ in length


def _one_by_one(
    own: Sequence[Tensor], before: Sequence[Tensor], lengths: Sequence[int], scaling: float | None, dropout: float
) -> Iterator[Tensor]:
    """Arguments as for `_dense`; yields [1, H, R, D] of each branch."""
    shared = before[0].shape[2]
    for query, *rest in zip(*(tensor.split(lengths, dim=2) for tensor in own), strict=True):
        key, value = (torch.cat(pair, dim=2) for pair in zip(before, rest, strict=True))
        causal = shared < query.shape[2]
        if causal:  # queries that nobody asks cost less than a mask, under which no block is left out
            query = F.pad(query, (0, 0, shared, 0))
        mask = None if causal else _visible(query.shape[2], shared, query.device)
        seen = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, dropout_p=dropout, scale=scaling, enable_gqa=True
        )
        yield seen[:, :, shared:] if causal else seen


def _visible(length: int, shared: int, device: torch.device) -> Tensor:
    """bool [length, shared + length]: what each token of a branch sees."""
    return torch.ones(length, shared + length, dtype=torch.bool, device=device).tril(shared)


def _dense(own: Sequence[Tensor], before: Sequence[Tensor], lengths: Sequence[int], scaling: float | None) -> Tensor:
    """Attention of a segment's branches, or of its prompt as the only branch of what comes before it, as two products
    of matrices: on a CPU torch's own takes over twice as long.

    own: query [1, H, B, D], key and value [1, G, B, D] of the branches, B = sum(lengths); before: key and value
    [1, G, S, D] of what all of them see. Shorter branches are padded at their end, which no token before it sees.
    Returns [1, H, B, D].
    """

    def padded(tensor: Tensor) -> Tensor:
        """[K, heads, R, D]."""
        return pad_sequence(tensor[0].transpose(0, 1).split(lengths), batch_first=True).transpose(1, 2)

    q, *rest = map(padded, own)
    (count, heads, longest, width), groups = q.shape, rest[0].shape[1]
    k, v = (torch.cat([shared.expand(count, -1, -1, -1), one], dim=2) for shared, one in zip(before, rest, strict=True))
    q = (q * (width**-0.5 if scaling is None else scaling)).reshape(count, groups, -1, width)
    hidden = torch.zeros(longest, k.shape[2], dtype=q.dtype, device=q.device)
    hidden.masked_fill_(~_visible(longest, before[0].shape[2], q.device), -math.inf)
    scores = (q @ k.transpose(2, 3)).view(count, groups, -1, *hidden.shape) + hidden
    seen = scores.softmax(dim=-1).view(count, groups, -1, k.shape[2]) @ v
    by_branch = seen.view(count, heads, longest, width).transpose(1, 2)
    return torch.cat([one[:length] for one, length in zip(by_branch, lengths, strict=True)]).transpose(0, 1)[None]


ATTENTION = "segments"
AttentionInterface.register(ATTENTION, segment_attention)


def _check_supported(model: PreTrainedModel) -> None:
    config = model.config
    name = config.architectures[0] if config.architectures else type(model).__name__
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        raise UnsupportedModelError(f"{name}: layers without full attention cannot be trained on shared prompts")
    head = model.get_output_embeddings()
    if getattr(config, "final_logit_softcapping", None) or getattr(head, "bias", None) is not None:
        raise UnsupportedModelError(f"{name}: output heads with a bias or capped logits are not supported")
