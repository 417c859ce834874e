"""Packed rows: layout, completeness, splitting, and what is refused."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.algorithm.batching import (
    BatchingError,
    Example,
    Group,
    Row,
    Segment,
    by_prompt,
    heaviest,
    pack,
    pack_for,
    shard,
    shuffled,
    split,
)


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def group(rng: np.random.Generator, prompt: int, *responses: int) -> Group:
    return Group(
        rng.integers(0, 99, prompt).astype(np.int32),
        tuple(rng.integers(0, 99, length).astype(np.int32) for length in responses),
    )


def test_layout_of_one_group():
    [row] = pack([Group(ids(1, 2, 3), (ids(4, 5, 6), ids(7)))], row_tokens=5)
    assert row.input_ids.tolist() == [1, 2, 3, 4, 5]
    assert row.position_ids.tolist() == [0, 1, 2, 3, 4]
    assert row.segments == (Segment(3, (2,)),)
    assert row.loss_positions.tolist() == [2, 3, 4, 2]
    assert row.target_ids.tolist() == [4, 5, 6, 7]
    assert row.token_index.tolist() == [0, 1, 2, 3]
    assert row.responses == (3, 1)


def test_what_prompts_begin_with_alike_is_there_once():
    [row] = pack(
        [Group(ids(1, 2, 3), (ids(4, 5),)), Group(ids(1, 2), (ids(6, 7),)), Group(ids(1, 2, 8), (ids(9),))], 10
    )
    assert row.input_ids.tolist() == [1, 2, 6, 3, 4, 8]
    assert row.position_ids.tolist() == [0, 1, 2, 2, 3, 2]
    assert row.segments == (Segment(2, (1,)), Segment(1, (1,), 0), Segment(1, (), 0))
    assert row.loss_positions.tolist() == [1, 2, 3, 4, 5]
    assert row.token_index.tolist() == [2, 3, 0, 1, 4]
    assert (row.groups, row.prompt_ends.tolist()) == ((1, 0, 2), [1, 3, 5])
    assert row.prompt_index.tolist() == [0, 0, 1, 1, 2]


def sequences(row: Row) -> dict[tuple[int, ...], int]:
    """The tokens that each response's last loss position sees, itself included, with its target: how often."""
    parts, paths, start = [], [], 0
    for segment in row.segments:
        above = paths[segment.parent] if segment.parent >= 0 else []
        for length, path in ((segment.prompt, above), *((length, None) for length in segment.branches)):
            place = list(range(start, start + length))
            parts.append((paths[-1] if path is None else path) + place)
            if path is not None:
                paths.append(parts[-1])
            start += length
    seen = {part[-1]: part for part in parts}
    assert start == len(row.input_ids)
    ends = np.cumsum(row.responses) - 1
    found = [(*row.input_ids[seen[row.loss_positions[end]]].tolist(), int(row.target_ids[end])) for end in ends]
    for part in parts:
        assert row.position_ids[part].tolist() == list(range(len(part)))
    return Counter(found)


shapes = st.tuples(
    st.lists(st.integers(0, 1), min_size=1, max_size=9), st.lists(st.integers(1, 6), min_size=1, max_size=6)
)


@given(st.lists(shapes, min_size=1, max_size=9), st.sampled_from([14, 25, 80]))
def test_every_response_token_is_trained_exactly_once_within_the_budget(shapes, row_tokens):
    """Prompts of two tokens begin alike; no two responses do."""
    fresh = itertools.count(2)
    groups = [Group(ids(*p), tuple(ids(*itertools.islice(fresh, n)) for n in lengths)) for p, lengths in shapes]
    responses = np.concatenate([response for g in groups for response in g.responses])
    rows = pack(groups, row_tokens)
    index = np.concatenate([row.token_index for row in rows])
    targets = np.concatenate([row.target_ids for row in rows])
    assert sorted(index) == list(range(len(responses)))
    assert (targets == responses[index]).all()
    assert max(len(row.input_ids) for row in rows) <= row_tokens
    named = Counter(number for row in rows for number in row.groups)
    whole = [len(g.prompt_ids) + sum(len(response) - 1 for response in g.responses) <= row_tokens for g in groups]
    assert all(named[number] == 1 for number, fits in enumerate(whole) if fits), "no prompt is there twice needlessly"
    assert sum(map(sequences, rows), Counter()) == Counter(
        (*g.prompt_ids.tolist(), *response.tolist()) for g in groups for response in g.responses
    )
    for row in rows:
        numbers = (row.input_ids, row.position_ids, row.loss_positions, row.target_ids, row.token_index)
        assert {array.dtype.name for array in numbers} == {"int32"}
        begun = {tuple(groups[number].prompt_ids[:end]) for number in row.groups for end in range(1, 10)}
        assert len(row.input_ids) == len(begun) + sum(length - 1 for length in row.responses), "prompts are there twice"
        ends = zip(row.groups, row.prompt_ends, strict=True)
        assert all(row.position_ids[end] == len(groups[number].prompt_ids) - 1 for number, end in ends)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 4))
def test_ranks_have_equally_many_rows_and_nearly_equally_many_tokens(lengths, ranks):
    rows = [pack([Group(ids(1), (ids(*range(length)),))], 100)[0] for length in lengths]
    shards = shard(rows, ranks)
    assert len(shards) == ranks and len({len(part) for part in shards}) == 1
    assert sorted(index for part in shards for index in part if index is not None) == list(range(len(lengths)))
    dealt = [[lengths[index] for index in part if index is not None] for part in shards]
    fullest = max(dealt, key=sum)
    assert sum(fullest) - min(map(sum, dealt)) <= min(fullest), "its shortest row would be better elsewhere"
    assert len(shards[0]) == max(sum(index is not None for index in part) for part in shards), "fillers on all ranks"


@pytest.mark.parametrize(
    ("groups", "responses", "prompt", "longest", "ranks"),
    [
        (4, 16, 600, 128, 2),  # the quickstart's batch
        (16, 16, 4000, 1024, 4),  # one-gpu-node
        (32, 16, 4000, 1024, 8),  # multi-node
        (8, 4, 500, 128, 8),  # fine-tuning: batches of examples that share prompts
    ],
)
def test_ranks_are_busy_nine_tenths_of_the_time_with_the_shapes_that_are_shipped(
    groups, responses, prompt, longest, ranks
):
    rng = np.random.default_rng(0)
    lengths = rng.integers(longest // 4, longest, (groups, responses))
    batch = [group(rng, prompt + int(rng.integers(0, prompt // 4)), *map(int, of_group)) for of_group in lengths]
    rows = pack_for(batch, 16384, ranks)
    busy = sum(len(row.input_ids) for row in rows) / ranks / heaviest(rows, ranks)
    assert busy >= 0.9
    assert heaviest(rows, ranks) <= heaviest(pack(batch, 16384), ranks)


@given(
    shapes=st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(1, 6), min_size=1, max_size=5)), max_size=6),
    ranks=st.integers(1, 4),
)
def test_rows_for_several_ranks_hold_every_token_once_and_no_rank_has_more_than_before(shapes, ranks):
    rng = np.random.default_rng(0)
    batch = [group(rng, prompt, *responses) for prompt, responses in shapes]
    rows, plain = pack_for(batch, 40, ranks), pack(batch, 40)
    counted = Counter(index for row in rows for index in row.token_index.tolist())
    assert counted == Counter(range(sum(len(response) for one in batch for response in one.responses)))
    assert max((len(row.input_ids) for row in rows), default=0) <= 40
    assert heaviest(rows, ranks) <= heaviest(plain, ranks)
    if ranks == 1:
        assert [row.input_ids.tolist() for row in rows] == [row.input_ids.tolist() for row in plain]


def test_groups_lie_where_they_have_most_in_common():
    """Of three rows with room the second shares two tokens, the third one, and the first, the fullest, none."""
    starts = [ids(*(1,) * 20), ids(2, 5, *(4,) * 16), ids(2, 3, *(4,) * 14), ids(2, 5, 6)]
    rows = pack([Group(prompt, (ids(*(7,) * 9),)) for prompt in starts], row_tokens=39)
    assert [sorted(row.groups) for row in rows] == [[0], [1, 3], [2]]
    assert [len(row.input_ids) for row in rows] == [28, 26 + 9, 24]


def test_a_group_lies_elsewhere_where_what_it_shares_leaves_too_little_room():
    prompts = [ids(1, 2, *(3,) * 20), ids(*(4,) * 15), ids(1, 2, *(5,) * 8)]
    rows = pack([Group(prompt, (ids(7),)) for prompt in prompts], row_tokens=29)
    assert [sorted(row.groups) for row in rows] == [[0], [1, 2]]


def test_what_is_shared_takes_no_room():
    [row] = pack([Group(ids(*(1,) * 9, last), (ids(5, 6, 7, 8),)) for last in (2, 3, 4)], row_tokens=21)
    assert len(row.input_ids) == 21


def test_a_large_group_is_split_and_repeats_its_prompt():
    rows = pack([Group(ids(1, 2, 3, 4), (ids(5, 6, 7),) * 4)], row_tokens=8)
    assert [row.segments for row in rows] == [(Segment(4, (2, 2)),)] * 2
    assert [row.token_index.tolist() for row in rows] == [list(range(6)), list(range(6, 12))]


def test_small_groups_share_a_row():
    rng = np.random.default_rng(0)
    assert len(pack([group(rng, 4, 4, 4) for _ in range(4)], row_tokens=20)) == 2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Group(ids(1, 2), (ids(1), ids())), "group 1, response 1 is empty"),
        (Group(ids(), (ids(1),)), "group 1 has an empty prompt"),
        (Group(ids(*range(9)), (ids(1, 2, 3),)), "9 and a response of 3 tokens do not fit a row of 10.*row_tokens"),
    ],
)
def test_what_no_row_can_hold_is_refused(bad, message):
    with pytest.raises(BatchingError, match=message):
        pack([Group(ids(1), (ids(2),)), bad], row_tokens=10)


def test_examples_of_one_prompt_share_a_group():
    prompts = [np.array([1, 2], np.int32), np.array([3], np.int32)]
    examples = [Example(prompts[i % 2], np.array([i], np.int32)) for i in range(4)]
    groups = by_prompt(examples)
    assert [[r.tolist() for r in g.responses] for g in groups] == [[[0], [2]], [[1], [3]]]
    assert [g.prompt_ids.tolist() for g in groups] == [[1, 2], [3]]


def test_shuffling_keeps_runs_of_one_prompt_and_every_example():
    prompts = [np.array([p], np.int32) for p in range(3)]
    examples = [Example(prompts[i % 3], np.array([i], np.int32)) for i in range(15)]
    order = shuffled(examples, 2, np.random.default_rng(0))
    assert sorted(e.response_ids[0] for e in order) == list(range(15))
    assert sum(a.prompt_ids is b.prompt_ids for a, b in itertools.pairwise(order)) >= 6
    orders = [shuffled(examples, 2, np.random.default_rng(seed)) for seed in range(5)]
    assert len({tuple(e.response_ids[0] for e in one) for one in orders}) == 5


@pytest.mark.parametrize("seed", range(5))
def test_shuffling_spreads_the_examples_of_a_prompt(seed):
    prompts = [np.array([p], np.int32) for p in range(4)]
    order = shuffled([Example(prompts[i % 4], prompts[0]) for i in range(64)], 4, np.random.default_rng(seed))
    of_prompts = [int(example.prompt_ids[0]) for example in order]
    assert all(set(of_prompts[start : start + 16]) == {0, 1, 2, 3} for start in range(0, 64, 16))


@pytest.mark.parametrize(("examples", "share", "kept_back"), [
    (0, 0.5, 0), (1, 0.0, 0), (1, 1.0, 0), (2, 1.0, 1), (10, 0.0, 0), (10, 0.1, 1), (10, 0.26, 3), (10, 1.0, 9),
])  # fmt: skip
def test_a_share_of_the_examples_is_kept_back_and_one_is_always_left(examples, share, kept_back):
    given = [Example(ids(0), ids(number)) for number in range(examples)]
    trained, kept = split(given, share, seed=1)
    assert len(kept) == kept_back
    for part in (trained, kept):
        assert part == sorted(part, key=given.index), "in their order"
    assert sorted([*trained, *kept], key=given.index) == given


def test_what_is_kept_back_is_drawn_at_random_by_the_seed():
    given = [Example(ids(0), ids(number)) for number in range(40)]
    kept = [[given.index(example) for example in split(given, 0.5, seed)[1]] for seed in (*range(20), 0)]
    assert kept[0] == kept[-1] and len(set(map(tuple, kept))) == 20
    assert {index for indices in kept for index in indices} == set(range(40))
