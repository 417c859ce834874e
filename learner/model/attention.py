"""Attention over a packed row: a tree of prompts and their independent branches, at the cost of its visible pairs only.

Registered with Transformers under the name `ATTENTION`, so that any model whose layers ask for their attention by name
can take it. Invariant: each token sees what it would see in its own sequence, and nothing else.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface

from learner.algorithm.batching import Segment
from learner.model.recompute import again

DENSE = 1 << 24
"""Scores of a segment's branches in one layer up to which a CPU holds them all (32 MiB in bfloat16): with more, the
products wait for memory and torch's own attention is as fast."""
DENSE_PROMPT = DENSE // 4
"""As `DENSE`, of a prompt: a longer one gains little in time."""
FLEX_BLOCK = 128
"""Tokens of a block of FlexAttention."""


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
                outputs.append(again(_dense, own, shared, spans, scaling))
            else:
                outputs += _one_by_one(own, shared, spans, scaling, dropout)
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def block_mask(segments: Sequence[Segment], device: torch.device) -> BlockMask:
    """What each token of a row sees, for FlexAttention: one kernel for the row, that leaves out blocks nobody sees.

    Which pairs of blocks those are is told from the first and last token of each; [T, T] is never held.
    """
    until = seen_until(segments, device)
    blocks = -(-len(until) // FLEX_BLOCK)
    padded = F.pad(until, (0, blocks * FLEX_BLOCK - len(until)), value=0).view(blocks, FLEX_BLOCK)
    first = torch.arange(blocks, device=device) * FLEX_BLOCK
    last = first + FLEX_BLOCK - 1
    touched = (first[None] <= last[:, None]) & (first[:, None] < padded.amax(1)[None])
    whole = (last[None] < first[:, None]) & (last[:, None] < padded.amin(1)[None]) & (last < len(until))[:, None]

    def visible(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < until[key])

    def listed(pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Of each block of queries, how many blocks of keys, and which, these first."""
        order = torch.argsort(pairs.int(), dim=1, descending=True, stable=True)
        return pairs.sum(1, dtype=torch.int32)[None, None], order.to(torch.int32)[None, None]

    return BlockMask.from_kv_blocks(
        *listed(touched & ~whole), *listed(whole), BLOCK_SIZE=FLEX_BLOCK, mask_mod=visible,
        seq_lengths=(len(until), len(until)),
    )  # fmt: skip


def seen_until(segments: Sequence[Segment], device: torch.device) -> Tensor:
    """int64 [T]: of each token, the position in the row up to which later tokens see it (exclusive)."""
    own = [segment.prompt + sum(segment.branches) for segment in segments]
    ends = list(itertools.accumulate(own))  # of each segment with those that continue it, which follow it
    for index in reversed(range(len(segments))):
        if (parent := segments[index].parent) >= 0:
            ends[parent] = max(ends[parent], ends[index])
    until: list[int] = []
    for segment, end in zip(segments, ends, strict=True):
        until += [end] * segment.prompt
        for length in segment.branches:
            until += [len(until) + length] * length
    return torch.tensor(until, device=device)


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
