"""A policy batch: what is trained on, and what is left out; test_objectives.py has what each token is trained on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from envs.records import Outcome, Transition
from learner.algorithm import policy_batch
from learner.config.schema import RlConfig
from tests.transitions import transition

VERSION = 7
PROMPTS = {"a": [1, 2, 3], "b": [4, 5], "c": [6]}


def step(name: str, reward: float, response: list[int], outcome: Outcome = Outcome.EDITED) -> Transition:
    return transition(name, PROMPTS[name[0]], response, reward, outcome=outcome)


GROUPS = [
    [step("a.0", 0.0, [10, 11]), step("a.1", 9.0, [12], Outcome.INFRA_FAILURE), step("a.2", 1.0, [13])],
    [step("b.0", 0.5, [14, 15]), step("b.1", 0.5, [16])],
    [step("c.0", 3.0, [17, 18, 19]), step("c.1", 1.0, [20])],
]


def test_failures_and_equal_groups_are_left_out_but_accounted_for():
    batch = policy_batch.build(GROUPS, VERSION, 100, RlConfig())
    assert sorted(np.concatenate([row.row.target_ids for row in batch.rows])) == [10, 11, 13, 17, 18, 19, 20]
    assert (batch.tokens, batch.equal_groups, batch.masked) == (10, 1, 1)
    assert batch.advantages == pytest.approx({"a.0": -1, "a.2": 1, "b.0": 0, "b.1": 0, "c.0": 1, "c.1": -1}, abs=1e-5)


def test_an_excluded_transition_is_left_out_as_a_failure_is():
    def excluded(one: Transition) -> Transition:
        suspicious = one.outcome is Outcome.INFRA_FAILURE
        return dataclasses.replace(one, outcome=Outcome.EDITED, excluded=suspicious)

    for name in ("grpo", "rloo", "ppo"):
        rl = RlConfig(algorithm=name)
        failed = policy_batch.build(GROUPS, VERSION, 100, rl)
        left_out = policy_batch.build([[excluded(t) for t in group] for group in GROUPS], VERSION, 100, rl)
        assert (left_out.advantages, left_out.masked, left_out.tokens) == (failed.advantages, 1, 10)
        assert left_out.equal_groups == failed.equal_groups and left_out.groups == failed.groups
        for one, other in zip(left_out.rows, failed.rows, strict=True):
            np.testing.assert_array_equal(one.weights, other.weights)
            np.testing.assert_array_equal(one.row.target_ids, other.row.target_ids)


def test_where_all_is_excluded_nothing_is_trained():
    groups = [[dataclasses.replace(t, excluded=True) for t in group] for group in GROUPS]
    batch = policy_batch.build(groups, VERSION, 100, RlConfig())
    assert (batch.rows, batch.tokens, batch.equal_groups, batch.masked, batch.advantages) == ([], 0, 3, 7, {})


def test_a_group_of_whole_episodes_has_a_place_for_each_of_its_prompts():
    later = [
        dataclasses.replace(t, id=f"{t.id}/1", prompt_ids=np.array(PROMPTS["b"], np.int32)) for t in GROUPS[0][::2]
    ]
    episodes = [GROUPS[0][0], later[0], GROUPS[0][2], later[1]]
    batch = policy_batch.build([episodes], VERSION, 100, RlConfig())
    assert batch.groups == [["a.0", "a.2"], ["a.0/1", "a.2/1"]]
    (part,) = batch.rows
    assert sorted((s.prompt, s.branches) for s in part.row.segments) == [(2, (1,)), (3, (1,))]
    assert batch.advantages == pytest.approx({"a.0": -1, "a.0/1": -1, "a.2": 1, "a.2/1": 1}, abs=1e-5)
    assert part.advantages.tolist() == pytest.approx([-1, -1, 1] * 2, abs=1e-5)


def test_groups_that_were_replaced_weigh_nothing_even_where_every_token_has_a_gradient():
    """The second is of equal rewards: without `rl.refill` its tokens thin the others."""
    for keys in ({}, {"kl": 0.1}, {"entropy": 0.1}):
        batch = policy_batch.build(GROUPS, VERSION, 100, RlConfig(refill=1, **keys))
        assert {t.id for t in batch.members} == {"a.0", "a.2", "c.0", "c.1"}
        assert sum(row.weights.sum() for row in batch.rows) == pytest.approx(1)
    thinned = policy_batch.build(GROUPS, VERSION, 100, RlConfig(refill=0))
    assert sum(row.weights.sum() for row in thinned.rows) == pytest.approx(7 / 10)


@pytest.mark.parametrize("row_tokens", [6, 100])
def test_parts_are_of_whole_groups_with_weights_of_their_own_and_places_in_the_whole(row_tokens):
    whole = policy_batch.build(GROUPS, VERSION, row_tokens, RlConfig(algorithm="ppo"))
    batch = policy_batch.build(GROUPS, VERSION, row_tokens, RlConfig(algorithm="ppo", minibatches=2))
    assert [sorted(np.concatenate([row.row.target_ids for row in part])) for part in batch.parts] == [
        [10, 11, 13, 14, 15, 16], [17, 18, 19, 20],
    ]  # fmt: skip
    assert [sum(row.weights.sum() for row in part) for part in batch.parts] == pytest.approx([1, 1])
    assert (batch.members, batch.groups, batch.advantages) == (whole.members, whole.groups, whole.advantages)
    responses = np.concatenate([t.response_ids for t in batch.members])
    for row in batch.rows:
        assert responses[row.row.token_index].tolist() == row.row.target_ids.tolist()
        for group, end in zip(row.row.groups, row.row.prompt_ends, strict=True):
            assert row.row.input_ids[end] == PROMPTS[batch.groups[group][0][0]][-1]


@pytest.mark.parametrize(
    ("regularised", "rows"), [({}, 0), ({"kl": 0.1}, 1), ({"entropy": 0.1}, 1), ({"entropy_target": 0.1}, 1)]
)
def test_no_signal_means_no_rows_unless_every_token_has_a_gradient(regularised, rows):
    batch = policy_batch.build(GROUPS[1:2], VERSION, 100, RlConfig(**regularised))
    assert len(batch.rows) == rows
    assert batch.equal_groups == 1
    assert batch.advantages == {"b.0": 0, "b.1": 0}
