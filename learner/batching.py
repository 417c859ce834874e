"""Packs prompt groups into rows in which a prompt shared by K responses is computed once.

A group is laid out as `[prompt | branch 1 | … | branch K]`. A branch starts with the prompt's last token again, at its
position P−1, followed by the response without its last token, so that every branch token predicts one response token.
Several groups lie side by side in a row. Invariants: a branch sees the prompt except its last token (which the branch
repeats) and its own earlier tokens, nothing else; every response token is a loss position of exactly one row; nothing
is truncated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


class BatchingError(ValueError):
    """A sequence that no row can hold; the message says which and how long it is."""


@dataclass(frozen=True)
class Example:
    """One supervised example."""

    prompt_ids: np.ndarray
    """int32 [P]."""
    response_ids: np.ndarray
    """int32 [R], the end token included."""


@dataclass(frozen=True)
class Group:
    """One prompt and the responses sampled from it."""

    prompt_ids: np.ndarray
    """int32 [P]."""
    responses: tuple[np.ndarray, ...]
    """K times int32 [R_k]."""


def by_prompt(examples: Sequence[Example]) -> list[Group]:
    """One group per distinct prompt, so that examples of one state share its computation; in order of appearance."""
    responses: dict[bytes, list[np.ndarray]] = {}
    prompts = {example.prompt_ids.tobytes(): example.prompt_ids for example in examples}
    for example in examples:
        responses.setdefault(example.prompt_ids.tobytes(), []).append(example.response_ids)
    return [Group(prompts[key], tuple(found)) for key, found in responses.items()]


def shuffled(examples: Sequence[Example], together: int, rng: np.random.Generator) -> list[Example]:
    """The examples in random order, but those of one prompt in runs of up to `together`, so that batches share work."""
    order = [examples[index] for index in rng.permutation(len(examples))]
    by_state: dict[bytes, list[Example]] = {}
    for example in order:
        by_state.setdefault(example.prompt_ids.tobytes(), []).append(example)
    runs = [same[start : start + together] for same in by_state.values() for start in range(0, len(same), together)]
    return [example for index in rng.permutation(len(runs)) for example in runs[index]]


def split(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(the others, a random `share` of the examples): at least one stays among the others."""
    count = max(0, min(round(share * len(examples)), len(examples) - 1))
    chosen = set(np.random.default_rng(seed).permutation(len(examples))[:count].tolist())
    parts: tuple[list[Example], list[Example]] = [], []
    for index, example in enumerate(examples):
        parts[index in chosen].append(example)
    return parts


@dataclass(frozen=True)
class Segment:
    """Where one group lies in its row: lengths of the prompt and of each branch, in row order."""

    prompt: int
    branches: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One packed sequence of T tokens with N loss positions."""

    input_ids: np.ndarray
    """int32 [T]."""
    position_ids: np.ndarray
    """int32 [T]."""
    segments: tuple[Segment, ...]
    """The groups in row order; their lengths add up to T."""
    loss_positions: np.ndarray
    """int32 [N]: row positions whose output predicts a response token."""
    target_ids: np.ndarray
    """int32 [N]: the predicted tokens."""
    token_index: np.ndarray
    """int32 [N]: index of each target in the batch's responses laid end to end, groups and members in given order."""
    groups: tuple[int, ...]
    """The number of each segment's group in the batch."""

    @property
    def segment_index(self) -> np.ndarray:
        """int64 [N]: the segment of each loss position."""
        return np.repeat(np.arange(len(self.segments)), [sum(segment.branches) for segment in self.segments])


@dataclass(frozen=True)
class _Piece:
    """Part of a group that goes into one row, with the batch offset of each of its responses."""

    group: int
    prompt_ids: np.ndarray
    responses: tuple[np.ndarray, ...]
    offsets: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.prompt_ids) + sum(len(response) for response in self.responses)


def pack(groups: Sequence[Group], row_tokens: int) -> list[Row]:
    """Rows of at most `row_tokens` tokens that hold all `groups` (first fit, largest first; deterministic).

    A group that does not fit one row is split over several, each repeating the prompt.
    Raises BatchingError for an empty prompt or response, or a prompt with one response longer than a row.
    """
    bins: list[list[_Piece]] = []
    for piece in sorted(_pieces(groups, row_tokens), key=lambda piece: -piece.size):
        room = (held for held in bins if sum(other.size for other in held) + piece.size <= row_tokens)
        held = next(room, None)
        if held is None:
            bins.append([piece])
        else:
            held.append(piece)
    return [_row(held) for held in bins]


def shard(rows: Sequence[Row], ranks: int) -> list[list[int | None]]:
    """Indices of `rows` for each rank: equally many (None fills up), with nearly equal token counts.

    The longest row goes first, each to the least loaded rank.
    """
    shards: list[list[int | None]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for index in sorted(range(len(rows)), key=lambda index: -len(rows[index].input_ids)):
        rank = load.index(min(load))
        shards[rank].append(index)
        load[rank] += len(rows[index].input_ids)
    longest = max(map(len, shards))
    return [shard + [None] * (longest - len(shard)) for shard in shards]


def _pieces(groups: Sequence[Group], row_tokens: int) -> list[_Piece]:
    pieces: list[_Piece] = []
    offset = 0
    for index, group in enumerate(groups):
        prompt = len(group.prompt_ids)
        if not prompt:
            raise BatchingError(f"group {index} has an empty prompt")
        responses: list[np.ndarray] = []
        offsets: list[int] = []
        used = prompt
        for member, response in enumerate(group.responses):
            if not len(response):
                raise BatchingError(f"group {index}, response {member} is empty")
            if prompt + len(response) > row_tokens:
                raise BatchingError(
                    f"group {index}, response {member}: a prompt of {prompt} and a response of {len(response)} tokens "
                    f"do not fit a row of {row_tokens}; raise learner.row_tokens or lower model.context"
                )
            if used + len(response) > row_tokens:
                pieces.append(_Piece(index, group.prompt_ids, tuple(responses), tuple(offsets)))
                responses, offsets, used = [], [], prompt
            responses.append(response)
            offsets.append(offset)
            used += len(response)
            offset += len(response)
        if responses:
            pieces.append(_Piece(index, group.prompt_ids, tuple(responses), tuple(offsets)))
    return pieces


def _row(pieces: Sequence[_Piece]) -> Row:
    ids, positions, losses, targets, index = [], [], [], [], []
    start = 0
    for piece in pieces:
        prompt = len(piece.prompt_ids)
        ids.append(piece.prompt_ids)
        positions.append(np.arange(prompt))
        start += prompt
        for response, offset in zip(piece.responses, piece.offsets, strict=True):
            length = len(response)
            ids += [piece.prompt_ids[-1:], response[:-1]]
            positions.append(prompt - 1 + np.arange(length))
            losses.append(start + np.arange(length))
            targets.append(response)
            index.append(offset + np.arange(length))
            start += length
    return Row(
        input_ids=np.concatenate(ids).astype(np.int32),
        position_ids=np.concatenate(positions).astype(np.int32),
        segments=tuple(Segment(len(p.prompt_ids), tuple(len(r) for r in p.responses)) for p in pieces),
        loss_positions=np.concatenate(losses).astype(np.int32),
        target_ids=np.concatenate(targets).astype(np.int32),
        token_index=np.concatenate(index).astype(np.int32),
        groups=tuple(piece.group for piece in pieces),
    )
