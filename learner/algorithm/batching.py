"""Packs prompt groups into rows in which what several sequences begin with is computed once.

A group is laid out as `[prompt | branch 1 | … | branch K]`; a branch is a response without its last token. Several
groups lie in a row, and what their prompts begin with alike, as those of one task do, is there once. So a row is a
tree, depth first: `[common | rest of prompt 1 | its branches | rest of prompt 2 | its branches]`. Invariants: a token
sees its ancestors in the tree and the earlier tokens of its own part, nothing else; every response token is predicted
at exactly one loss position of one row; nothing is truncated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from envs.errors import UserError


class BatchingError(UserError):
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
    return [Group(prompts[key], tuple(members)) for key, members in responses.items()]


def shuffled(examples: Sequence[Example], together: int, rng: np.random.Generator) -> list[Example]:
    """The examples in random order, but those of one prompt in runs of up to `together`, so that batches share work;
    those of one prompt are spread evenly, so that batches are mixed."""
    order = [examples[index] for index in rng.permutation(len(examples))]
    by_state: dict[bytes, list[Example]] = {}
    for example in order:
        by_state.setdefault(example.prompt_ids.tobytes(), []).append(example)
    places: list[tuple[float, list[Example]]] = []
    for same in by_state.values():
        runs = [same[start : start + together] for start in range(0, len(same), together)]
        places += [((number + rng.random()) / len(runs), run) for number, run in enumerate(runs)]
    return [example for _, run in sorted(places, key=lambda place: place[0]) for example in run]


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
    """Part of a prompt and the branches that continue it: lengths in row order."""

    prompt: int
    branches: tuple[int, ...]
    parent: int = -1
    """Index of the segment whose prompt this one continues; -1: it begins a prompt."""


@dataclass(frozen=True)
class Row:
    """One packed sequence of T tokens with N loss positions, that predict the responses to S prompts."""

    input_ids: np.ndarray
    """int32 [T]."""
    position_ids: np.ndarray
    """int32 [T]."""
    segments: tuple[Segment, ...]
    """A tree, depth first; their lengths add up to T."""
    loss_positions: np.ndarray
    """int32 [N]: row positions whose output predicts a response token; that of a prompt's end predicts several."""
    target_ids: np.ndarray
    """int32 [N]: the predicted tokens, response by response."""
    token_index: np.ndarray
    """int32 [N]: index of each target in the batch's responses laid end to end, groups and members in given order."""
    responses: tuple[int, ...]
    """Lengths of the responses; they add up to N."""
    groups: tuple[int, ...]
    """The number of each prompt's group in the batch."""
    prompt_ends: np.ndarray
    """int32 [S]: row position of each prompt's last token."""
    prompt_index: np.ndarray
    """int64 [N]: the prompt of each loss position."""


@dataclass(frozen=True)
class _Piece:
    """Part of a group that goes into one row, with the batch offset of each of its responses."""

    group: int
    prompt_ids: np.ndarray
    responses: tuple[np.ndarray, ...]
    offsets: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.prompt_ids) + sum(len(response) - 1 for response in self.responses)


def pack(groups: Sequence[Group], row_tokens: int) -> list[Row]:
    """Rows of at most `row_tokens` tokens that hold all `groups`; deterministic.

    Largest first, each where it has most in common with what is there, of those with room. A group that does not fit
    one row is split over several, each repeating the prompt.
    Raises BatchingError for an empty prompt or response, or a prompt with one response longer than a row.
    """
    bins: list[list[_Piece]] = []
    tokens: list[int] = []
    for piece in sorted(_pieces(groups, row_tokens), key=lambda piece: -piece.size):
        common = [max(_common(piece.prompt_ids, other.prompt_ids) for other in pieces) for pieces in bins]
        room = [place for place in range(len(bins)) if tokens[place] + piece.size - common[place] <= row_tokens]
        if room:
            place = max(room, key=common.__getitem__)
            bins[place].append(piece)
            tokens[place] += piece.size - common[place]
        else:
            bins.append([piece])
            tokens.append(piece.size)
    return [_row(pieces) for pieces in bins]


SLACK = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0)
"""Lengths of rows that are tried, as multiples of a rank's even share of all tokens."""


def pack_for(groups: Sequence[Group], row_tokens: int, ranks: int) -> list[Row]:
    """As `pack`, with rows as short as it takes to give all ranks something to do: of some lengths, that with which
    the rank with most tokens (by `shard`) has fewest. Shorter rows repeat more of what prompts share.

    Raises BatchingError as `pack`.
    """
    widest = pack(groups, row_tokens)
    if ranks == 1 or not widest:
        return widest
    even = sum(len(row.input_ids) for row in widest) / ranks
    longest = max(len(group.prompt_ids) + max(map(len, group.responses)) - 1 for group in groups)
    limits = {max(longest, math.ceil(even * slack)) for slack in SLACK}
    tried = [widest, *(pack(groups, limit) for limit in sorted(limits, reverse=True) if limit < row_tokens)]
    return min(tried, key=lambda rows: heaviest(rows, ranks))  # of equals that with the longest rows


def heaviest(rows: Sequence[Row], ranks: int) -> int:
    """Tokens of the rank that has most."""
    return max(sum(len(rows[index].input_ids) for index in one if index is not None) for one in shard(rows, ranks))


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
            if prompt + len(response) - 1 > row_tokens:
                raise BatchingError(
                    f"group {index}, response {member}: a prompt of {prompt} and a response of {len(response)} tokens "
                    f"do not fit a row of {row_tokens}; raise learner.row_tokens or lower model.context"
                )
            if used + len(response) - 1 > row_tokens:
                pieces.append(_Piece(index, group.prompt_ids, tuple(responses), tuple(offsets)))
                responses, offsets, used = [], [], prompt
            responses.append(response)
            offsets.append(offset)
            used += len(response) - 1
            offset += len(response)
        if responses:
            pieces.append(_Piece(index, group.prompt_ids, tuple(responses), tuple(offsets)))
    return pieces


def _common(first: np.ndarray, second: np.ndarray) -> int:
    """How many tokens both begin with."""
    shorter = min(len(first), len(second))
    differ = first[:shorter] != second[:shorter]
    return int(differ.argmax()) if differ.any() else shorter


def _row(pieces: Sequence[_Piece]) -> Row:
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    losses: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    index: list[np.ndarray] = []
    segments: list[Segment] = []
    groups: list[int] = []
    prompt_ends: list[np.ndarray] = []
    prompt_index: list[np.ndarray] = []
    start = 0

    def add(tokens: np.ndarray, first: int) -> np.ndarray:
        """Append tokens, the first at that position of its sequence; returns their places in the row."""
        nonlocal start
        ids.append(tokens)
        positions.append(first + np.arange(len(tokens)))
        start += len(tokens)
        return np.arange(start - len(tokens), start)

    def grow(pieces: Sequence[_Piece], depth: int, parent: int) -> None:
        """Lay out pieces, sorted by prompt, whose first `depth` tokens are those of `parent` and its ancestors."""
        for _, alike in itertools.groupby(pieces, key=lambda piece: piece.prompt_ids[depth]):
            same = list(alike)
            end = _common(same[0].prompt_ids, same[-1].prompt_ids)
            last = add(same[0].prompt_ids[depth:end], depth)[-1:]
            ending = [piece for piece in same if len(piece.prompt_ids) == end]
            branches = []
            for piece in ending:
                for response, offset in zip(piece.responses, piece.offsets, strict=True):
                    losses.append(np.concatenate([last, add(response[:-1], end)]))
                    targets.append(response)
                    index.append(offset + np.arange(len(response)))
                    branches.append(len(response) - 1)
                    prompt_index.append(np.full(len(response), len(groups)))
                groups.append(piece.group)
                prompt_ends.append(last)
            segments.append(Segment(end - depth, tuple(filter(None, branches)), parent))
            grow(same[len(ending) :], end, len(segments) - 1)

    grow(sorted(pieces, key=lambda piece: piece.prompt_ids.tolist()), 0, -1)
    return Row(
        input_ids=np.concatenate(ids).astype(np.int32),
        position_ids=np.concatenate(positions).astype(np.int32),
        segments=tuple(segments),
        loss_positions=np.concatenate(losses).astype(np.int32),
        target_ids=np.concatenate(targets).astype(np.int32),
        token_index=np.concatenate(index).astype(np.int32),
        responses=tuple(map(len, targets)),
        groups=tuple(groups),
        prompt_ends=np.concatenate(prompt_ends).astype(np.int32),
        prompt_index=np.concatenate(prompt_index),
    )
