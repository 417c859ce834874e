"""The reward's properties, over all inputs, and its table of cases."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from envs.records import MILESTONES, Direction, Outcome, Usage
from reward import Terms, reward

SCORE = st.floats(-1e3, 1e3, allow_nan=False)
VERSION = st.sampled_from(["v1", "v2"])
DIRECTION = st.sampled_from(list(Direction))


def edit(before, after, m_init, m_best, direction=Direction.MAXIMIZE, version="v1", steepness=100.0):
    return reward(Outcome.EDITED, before, after, m_init, m_best, direction, Terms(version, steepness)).value


@given(SCORE, SCORE, SCORE, SCORE, DIRECTION)
def test_v1_lies_between_zero_and_one(before, after, m_init, m_best, direction):
    assert 0.0 <= edit(before, after, m_init, m_best, direction) <= 1.0


@given(SCORE, SCORE, SCORE, SCORE, SCORE, VERSION)
def test_a_better_score_is_never_worth_less(before, after, better, m_init, m_best, version):
    assume(better > after)
    assert edit(before, better, m_init, m_best, version=version) >= edit(before, after, m_init, m_best, version=version)


@given(SCORE, SCORE, SCORE, SCORE, VERSION)
def test_a_metric_and_its_negative_are_worth_the_same(before, after, m_init, m_best, version):
    assert edit(before, after, m_init, m_best, Direction.MAXIMIZE, version) == pytest.approx(
        edit(-before, -after, -m_init, -m_best, Direction.MINIMIZE, version)
    )


@given(SCORE, SCORE, SCORE, DIRECTION)
def test_no_gain_is_worth_as_much_as_a_neutral_action(score, m_init, m_best, direction):
    for version in ("v1", "v2"):
        neutral = reward(Outcome.NEUTRAL, score, None, m_init, m_best, direction, Terms(version)).value
        assert edit(score, score, m_init, m_best, direction, version) == pytest.approx(neutral)


@pytest.mark.parametrize(("version", "failure", "neutral"), [("v1", 0.0, 0.5), ("v2", -1.0, 0.0)])
def test_cases_without_a_gain(version, failure, neutral):
    def worth(outcome):
        return reward(outcome, 0.5, None, 0.5, 0.9, Direction.MAXIMIZE, Terms(version)).value

    assert {worth(Outcome.INVALID), worth(Outcome.SCRIPT_ERROR)} == {failure}
    assert {worth(Outcome.NEUTRAL), worth(Outcome.TIMEOUT), worth(Outcome.OUT_OF_MEMORY)} == {neutral}


def test_published_figures():
    gain = edit(0.6, 0.61, 0.5, 0.9, steepness=100.0)  # 1/40 of the range
    assert gain == pytest.approx(1 / (1 + math.exp(-2.5)))
    assert edit(0.6, 0.7, 0.5, 0.9, version="v2") == pytest.approx(0.25)
    assert edit(None, 0.7, 0.5, 0.9, version="v2") == pytest.approx(0.5)  # a start that never ran: against m_init


@pytest.mark.parametrize("m_best", [0.5, 0.4])
def test_a_start_that_is_as_good_as_the_best_still_counts_gains(m_best):
    assert edit(0.5, 0.6, 0.5, m_best, version="v2") == pytest.approx(0.2)  # against |m_init|
    assert edit(0.5, 0.4, 0.5, m_best, version="v2") == pytest.approx(-0.2)
    assert edit(0.0, 0.6, 0.0, 0.0, version="v2") == pytest.approx(0.6)  # against 1


def test_infrastructure_failure_has_no_reward():
    with pytest.raises(ValueError, match="mask"):
        reward(Outcome.INFRA_FAILURE, 0.5, None, 0.5, 0.9, Direction.MAXIMIZE)


SHARE = st.floats(0, 1)


@given(st.sampled_from([o for o in Outcome if o is not Outcome.INFRA_FAILURE]), VERSION, SHARE, SHARE, SHARE, SHARE)
def test_every_term_is_named_and_they_add_up(outcome, version, weight, time, memory, milestones):
    terms = Terms(version, milestones=milestones, time=weight, memory=weight)
    found = reward(outcome, 0.5, 0.6, 0.5, 0.9, Direction.MAXIMIZE, terms, Usage(MILESTONES[:2], time, memory))
    assert sum(found.parts.values()) == found.value
    assert found.parts.get("time", 0) == -weight * time and found.parts.get("memory", 0) == -weight * memory
    plain = reward(outcome, 0.5, 0.6, 0.5, 0.9, Direction.MAXIMIZE, Terms(version))
    assert set(found.parts) - set(plain.parts) <= {"milestones", "time", "memory"}


@given(VERSION, SHARE, st.lists(st.sampled_from(MILESTONES)))
def test_a_script_that_fails_earns_by_how_far_it_got_but_no_more_than_a_neutral_action(version, share, reached):
    def worth(outcome, milestones):
        terms = Terms(version, milestones=share)
        return reward(outcome, 0.5, None, 0.5, 0.9, Direction.MAXIMIZE, terms, Usage(tuple(milestones))).value

    failed = worth(Outcome.SCRIPT_ERROR, reached)
    assert worth(Outcome.SCRIPT_ERROR, ()) <= failed <= worth(Outcome.NEUTRAL, ())
    assert worth(Outcome.SCRIPT_ERROR, [*reached, *MILESTONES[:1]]) >= failed
    assert worth(Outcome.INVALID, reached) == worth(Outcome.INVALID, ()), "nothing ran"
