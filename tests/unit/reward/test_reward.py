"""The reward's properties, over all inputs, and its table of cases."""

import math
import zlib
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from envs.records import MILESTONES, Direction, Durations, Outcome, Withheld
from envs.sockets import SocketError
from learner.config.load import ConfigError, load
from reward import SAMPLE, SAMPLE_TASK, VERSIONS, Terms, check, overlong, reward

SCORE = st.floats(-1e3, 1e3).map(lambda score: round(score, 6))  # over the narrowest range it would be infinite
VERSION = st.sampled_from(["v1", "v2"])
DIRECTION = st.sampled_from(list(Direction))


LIMITS, V1 = SAMPLE_TASK.limits, Terms("v1")


def of(
    outcome,
    before,
    after,
    m_init,
    m_best,
    direction=Direction.MAXIMIZE,
    terms=V1,
    time=0.0,
    memory=0.0,
    reached=(),
):
    """The reward of such a step; time and memory as shares of their limits."""
    durations = Durations(execute=time * LIMITS.seconds)
    result = replace(
        SAMPLE, outcome=outcome, score_before=before, score_after=after, durations=durations,
        peak_mb=memory * LIMITS.memory_mb, milestones=tuple(reached),
    )  # fmt: skip
    return reward(result, replace(SAMPLE_TASK, m_init=m_init, m_best=m_best, direction=direction), terms)


def edit(before, after, m_init, m_best, direction=Direction.MAXIMIZE, version="v1", steepness=100.0):
    return of(Outcome.EDITED, before, after, m_init, m_best, direction, Terms(version, steepness)).value


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
        neutral = of(Outcome.NEUTRAL, score, None, m_init, m_best, direction, Terms(version)).value
        assert edit(score, score, m_init, m_best, direction, version) == pytest.approx(neutral)


@pytest.mark.parametrize(("version", "failure", "neutral"), [("v1", 0.0, 0.5), ("v2", -1.0, 0.0)])
def test_cases_without_a_gain(version, failure, neutral):
    def worth(outcome):
        return of(outcome, 0.5, None, 0.5, 0.9, terms=Terms(version)).value

    assert {worth(Outcome.INVALID), worth(Outcome.TRUNCATED), worth(Outcome.SCRIPT_ERROR)} == {failure}
    assert {worth(Outcome.NEUTRAL), worth(Outcome.TIMEOUT), worth(Outcome.OUT_OF_MEMORY)} == {neutral}


@pytest.mark.parametrize(("tokens", "off"), [(0, 0), (16384, 0), (18432, 0.5), (20275.2, 0.95), (20480, 1)])
def test_a_length_is_punished_as_in_dapo(tokens, off):
    """Its limit is 16,384 tokens and 4,096 more in which the punishment grows (arXiv 2503.14476, section 4.1)."""
    assert overlong(tokens / 20480) == pytest.approx(-off)


def test_a_response_is_punished_for_its_length_where_that_is_asked_for():
    long = replace(SAMPLE, response_used=0.9)
    soft, plain = reward(long, SAMPLE_TASK, Terms(truncated="soft")), reward(long, SAMPLE_TASK)
    assert soft.parts == plain.parts | {"overlong": pytest.approx(-0.5)} and "overlong" not in plain.parts


def test_published_figures():
    gain = edit(0.6, 0.61, 0.5, 0.9, steepness=100.0)  # 1/40 of the range
    assert gain == pytest.approx(1 / (1 + math.exp(-2.5)))
    assert edit(0.6, 0.7, 0.5, 0.9, version="v2") == pytest.approx(0.25)
    assert edit(None, 0.7, 0.5, 0.9, version="v2") == pytest.approx(0.5)  # a start that never ran: against m_init


@pytest.mark.parametrize("sign", [1, -1])
def test_only_what_is_better_than_the_best_so_far_is_paid_for_where_that_is_asked_for(sign):
    direction = Direction.MAXIMIZE if sign > 0 else Direction.MINIMIZE
    task = replace(SAMPLE_TASK, m_init=0.5 * sign, m_best=0.9 * sign, direction=direction)
    step = replace(SAMPLE, score_before=0.4 * sign, best_before=0.6 * sign)

    def worth(after, terms, of=step):
        return reward(replace(of, score_after=after * sign), task, terms).value

    last, best = Terms("v2"), Terms("v2", over="best")
    assert [worth(after, last) for after in (0.3, 0.6, 0.7)] == pytest.approx([-0.25, 0.5, 0.75])
    assert [worth(after, best) for after in (0.3, 0.6, 0.7)] == pytest.approx([0, 0, 0.25]), "back again is no gain"
    neutral = replace(step, outcome=Outcome.NEUTRAL, score_after=None)
    assert worth(0.6, Terms(over="best")) == worth(0.3, Terms(over="best")) == reward(neutral, task, Terms()).value
    assert worth(0.7, best, replace(step, best_before=None)) == pytest.approx(0.5), "nothing ran: against m_init"


@pytest.mark.parametrize("m_best", [0.5, 0.4])
def test_a_start_that_is_as_good_as_the_best_still_counts_gains(m_best):
    assert edit(0.5, 0.6, 0.5, m_best, version="v2") == pytest.approx(0.2)  # against |m_init|
    assert edit(0.5, 0.4, 0.5, m_best, version="v2") == pytest.approx(-0.2)
    assert edit(0.0, 0.6, 0.0, 0.0, version="v2") == pytest.approx(0.6)  # against 1


def test_infrastructure_failure_has_no_reward():
    with pytest.raises(ValueError, match="mask"):
        of(Outcome.INFRA_FAILURE, 0.5, None, 0.5, 0.9)


def test_what_an_experiment_uses_costs_its_share_and_never_more_than_all():
    for used, share in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (1.5, 1.0)):
        worth = of(Outcome.EDITED, 0.5, 0.6, 0.5, 0.9, terms=Terms("v1", time=0.2, memory=0.4), time=used, memory=used)
        assert worth.parts["time"] == pytest.approx(-0.2 * share)
        assert worth.parts["memory"] == pytest.approx(-0.4 * share)


def test_the_published_reward_is_what_there_is_unless_said_otherwise():
    assert reward(SAMPLE, SAMPLE_TASK) == reward(SAMPLE, SAMPLE_TASK, Terms())


SHARE = st.floats(0, 1)
TRIED = [outcome for outcome in Outcome if outcome is not Outcome.INFRA_FAILURE]


@given(st.sampled_from(TRIED), VERSION, SHARE, SHARE, SHARE, SHARE)
def test_every_term_is_named_and_they_add_up(outcome, version, weight, time, memory, milestones):
    terms = Terms(version, milestones=milestones, time=weight, memory=weight)
    worth = of(outcome, 0.5, 0.6, 0.5, 0.9, terms=terms, time=time, memory=memory, reached=MILESTONES[:2])
    assert sum(worth.parts.values()) == worth.value
    assert worth.parts.get("time", 0) == pytest.approx(-weight * time)
    assert worth.parts.get("memory", 0) == pytest.approx(-weight * memory)
    plain = of(outcome, 0.5, 0.6, 0.5, 0.9, terms=Terms(version))
    assert set(worth.parts) - set(plain.parts) <= {"milestones", "time", "memory"}


@given(VERSION, SHARE, st.lists(st.sampled_from(MILESTONES)))
def test_a_script_that_fails_earns_by_how_far_it_got_but_no_more_than_a_neutral_action(version, share, reached):
    def worth(outcome, milestones):
        terms = Terms(version, milestones=share)
        return of(outcome, 0.5, None, 0.5, 0.9, terms=terms, reached=milestones).value

    failed = worth(Outcome.SCRIPT_ERROR, reached)
    assert worth(Outcome.SCRIPT_ERROR, ()) <= failed <= worth(Outcome.NEUTRAL, ())
    assert worth(Outcome.SCRIPT_ERROR, [*reached, *MILESTONES[:1]]) >= failed
    assert worth(Outcome.INVALID, reached) == worth(Outcome.INVALID, ()), "nothing ran"


OUTSIDE = """
from envs.records import Outcome


def mine(result, task, terms):
    if result.outcome is not Outcome.EDITED:
        return {"nothing": 0}
    return {"better": float((result.score_after - task.m_init) * task.direction.sign > 0), "tokens": -0.01}


def number(result, task, terms):
    return 1.0


def endless(result, task, terms):
    return {"gain": float("nan")}


def nameless(result, task, terms):
    return {1: 0.5}


def wordy(result, task, terms):
    return {"gain": "much"}


def bold(result, task, terms):
    return {"gain": result.score_after - result.score_before}


def narrow(result):
    return {"gain": 1.0}
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    package = tmp_path / "outside_rewards"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "own.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_reward_from_outside_is_used_and_limits_still_cost(outside):
    cfg = load(["reward.version=outside_rewards.own:mine", "reward.time=0.5"])
    worth = of(Outcome.EDITED, 0.4, 0.6, 0.5, 0.9, terms=Terms.of(cfg.reward), time=0.5)
    assert worth.parts == {"better": 1.0, "tokens": -0.01, "time": -0.25}
    assert worth.value == pytest.approx(0.74)


@given(SCORE, SCORE, SCORE)
def test_no_score_on_test_reaches_a_reward_whatever_it_makes_of_what_it_is_given(start, after, whole):
    def everything(result, task, terms):
        return {"gain": zlib.crc32(repr((result, task)).encode())}

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VERSIONS, "everything", everything)
        tested = replace(SAMPLE, withheld=Withheld(after, whole)), replace(SAMPLE_TASK, m_init_test=start)
        assert reward(*tested, Terms("everything")) == reward(SAMPLE, SAMPLE_TASK, Terms("everything"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("number", "must return named parts, such as {'gain': 0.5}, not 1.0"),
        ("endless", "part 'gain' must be a finite number, not nan"),
        ("nameless", "part 1 must be a finite number, not 0.5"),
        ("wordy", "part 'gain' must be a finite number, not 'much'"),
        ("bold", "fails on a sample: TypeError"),
        ("narrow", "fails on a sample: TypeError: narrow() takes 1 positional argument but 3 were given"),
        ("absent", "cannot be imported (AttributeError"),
    ],
)
def test_a_reward_that_cannot_be_used_is_refused_with_the_configuration(outside, name, reason):
    with pytest.raises(ConfigError) as refusal:
        load([f"reward.version=outside_rewards.own:{name}"])
    assert str(refusal.value).startswith(f"reward.version=outside_rewards.own:{name}")
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    "cannot",
    [
        *(lambda result, task, outcome=outcome: result.outcome is outcome for outcome in TRIED),
        *(lambda result, task, direction=direction: task.direction is direction for direction in Direction),
        lambda result, task: task.m_best is None,
        lambda result, task: task.m_best is not None and task.m_best > task.m_init,
        lambda result, task: result.score_before is None,
        lambda result, task: result.score_before is not None,
        lambda result, task: result.outcome is not Outcome.EDITED and result.score_after is None,
    ],
)
def test_a_reward_is_tried_on_every_kind_of_result_before_a_run_begins(monkeypatch, cannot):
    def picky(result, task, terms):
        assert not cannot(result, task), "not this one"
        return {"gain": 0.0}

    monkeypatch.setitem(VERSIONS, "picky", picky)
    with pytest.raises(SocketError, match="not this one"):
        check(Terms("picky"))
