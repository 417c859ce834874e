"""A policy batch: what is trained on, what is left out, and that every array lines up with the row's targets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from envs.records import Outcome, Transition
from learner.algorithm import policy_batch
from learner.config.schema import RlConfig

VERSION = 7
PROMPTS = {"a": np.array([1, 2, 3], np.int32), "b": np.array([4, 5], np.int32), "c": np.array([6], np.int32)}


def transition(name: str, reward: float, response: list[int], outcome: Outcome = Outcome.EDITED) -> Transition:
    """The behaviour log-prob of token x is −x/100; all but the first token are sampled under VERSION."""
    ids = np.array(response, np.int32)
    return Transition(
        id=name, group_id=name[0], state_id="s", task_id="t", prompt_ids=PROMPTS[name[0]],
        response_ids=ids, behaviour_logprobs=(-ids / 100).astype(np.float32),
        version_spans=((VERSION - 1, 0, 1), (VERSION, 1, len(ids))), outcome=outcome, reward=reward,
    )  # fmt: skip


GROUPS = [
    [transition("a0", 0.0, [10, 11]), transition("a1", 9.0, [12], Outcome.INFRA_FAILURE), transition("a2", 1.0, [13])],
    [transition("b0", 0.5, [14, 15]), transition("b1", 0.5, [16])],
    [transition("c0", 3.0, [17, 18, 19]), transition("c1", 1.0, [20])],
]


def test_failures_and_equal_groups_are_left_out_but_accounted_for():
    batch = policy_batch.build(GROUPS, VERSION, 100, RlConfig())
    assert sorted(np.concatenate([row.row.target_ids for row in batch.rows])) == [10, 11, 13, 17, 18, 19, 20]
    assert (batch.tokens, batch.equal_groups, batch.masked) == (10, 1, 1)
    assert batch.advantages == pytest.approx({"a0": -1, "a2": 1, "b0": 0, "b1": 0, "c0": 1, "c1": -1}, abs=1e-5)


@pytest.mark.parametrize("row_tokens", [100, 6])
def test_arrays_line_up_with_the_targets(row_tokens):
    batch = policy_batch.build(GROUPS, VERSION, row_tokens, RlConfig())
    of_token = {int(token): t for group in GROUPS for t in group for token in t.response_ids}
    first = {int(t.response_ids[0]) for group in GROUPS for t in group}
    for part in batch.rows:
        targets = part.row.target_ids.tolist()
        assert part.behaviour.tolist() == pytest.approx([-token / 100 for token in targets])
        assert part.weights.tolist() == pytest.approx([1 / batch.tokens] * len(targets))
        assert part.emphasis.tolist() == [1] * len(targets)
        assert [batch.members[i].group_id for i in _member_of(batch, part.row.token_index)] == [
            batch.groups[part.row.groups[prompt]][0][0] for prompt in part.row.prompt_index
        ]
        assert part.advantages.tolist() == pytest.approx([batch.advantages[of_token[token].id] for token in targets])
        assert part.current.tolist() == [token not in first for token in targets]


def test_a_group_of_whole_episodes_has_a_place_for_each_of_its_prompts():
    later = [dataclasses.replace(t, id=f"{t.id}/1", prompt_ids=PROMPTS["b"]) for t in GROUPS[0][::2]]
    episodes = [GROUPS[0][0], later[0], GROUPS[0][2], later[1]]
    batch = policy_batch.build([episodes], VERSION, 100, RlConfig())
    assert batch.groups == [["a0", "a2"], ["a0/1", "a2/1"]]
    (part,) = batch.rows
    assert sorted((s.prompt, s.branches) for s in part.row.segments) == [(2, (1,)), (3, (1,))]
    assert batch.advantages == pytest.approx({"a0": -1, "a0/1": -1, "a2": 1, "a2/1": 1}, abs=1e-5)
    assert part.advantages.tolist() == pytest.approx([-1, -1, 1] * 2, abs=1e-5)


def _member_of(batch, token_index) -> list[int]:
    ends = np.cumsum([len(t.response_ids) for t in batch.members])
    return np.searchsorted(ends, token_index, side="right").tolist()


def test_ppo_trains_on_groups_of_equal_rewards_and_durations_weigh_when_asked():
    groups = [[dataclasses.replace(t, seconds=float(t.id[1]) + 1) for t in group] for group in GROUPS]
    batch = policy_batch.build(
        groups, VERSION, 100, RlConfig(algorithm="ppo", aggregation="sequence", duration_weight=True)
    )
    found = {int(token): pair for row in batch.rows for token, *pair in _per_token(row)}
    assert set(found) == {10, 11, 13, 14, 15, 16, 17, 18, 19, 20}
    mean = (1 + 3 + 1 + 2 + 1 + 2) / 6
    assert found[10] == pytest.approx([0.0, 1 / mean, 1 / 12])
    assert found[13] == pytest.approx([1.0, 3 / mean, 1 / 6])
    assert found[20] == pytest.approx([1.0, 2 / mean, 1 / 6])


def _per_token(row) -> list[tuple]:
    arrays = (row.row.target_ids, row.advantages, row.emphasis, row.weights)
    return list(zip(*(array.tolist() for array in arrays), strict=True))


@pytest.mark.parametrize(("regularised", "rows"), [({}, 0), ({"kl": 0.1}, 1), ({"entropy": 0.1}, 1)])
def test_no_signal_means_no_rows_unless_every_token_has_a_gradient(regularised, rows):
    batch = policy_batch.build(GROUPS[1:2], VERSION, 100, RlConfig(**regularised))
    assert len(batch.rows) == rows
    assert batch.equal_groups == 1
    assert batch.advantages == {"b0": 0, "b1": 0}
