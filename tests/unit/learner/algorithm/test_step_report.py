"""A step's report: which pass each figure is of, and which transition."""

from __future__ import annotations

import dataclasses

import pytest

from envs.records import Outcome
from learner.algorithm import policy_batch, step_report
from learner.algorithm.policy_sums import PolicySums
from learner.config.schema import RlConfig
from tests.transitions import transition

VERSION = 7
GROUP = [
    transition("a", [1, 2], [10, 11], 0.0),
    transition("failed", [1, 2], [12], 0.0, outcome=Outcome.INFRA_FAILURE),
    transition("b", [1, 2], [13], 1.0),
]
FIRST = PolicySums(
    tokens=3, loss=1.0, ratio=3.0, clipped=0.0, entropy=1.5, kl=0.3, gap=0.6, gap_max=0.5, grad_norm=2.0,
    worst=((0.5, 2, -1.5), (0.1, 1, -0.4)), values=((0, 0.25),), responses=((0, 1.0, 0.5), (2, 1.0, 0.5)),
)  # fmt: skip
LAST = PolicySums(
    tokens=3, loss=-1.0, ratio=6.0, clipped=1.5, entropy=0.75, kl=0.6, gap=60.0, gap_max=50.0, grad_norm=4.0,
    worst=((50.0, 0, -9.0),), values=((0, 0.75),), responses=((2, 3.0, -0.75), (0, 1.5, -0.25)),
)  # fmt: skip


def test_values_and_gaps_are_of_the_first_pass_everything_else_of_the_last():
    batch = policy_batch.build([GROUP], VERSION, 100, RlConfig(algorithm="ppo"))
    report = step_report.build(batch, [FIRST, LAST], 1e-5, 2.0)
    assert report.advantages == {"a": -0.25, "b": 0.75}, "less V(s) as it was when they were weighed"
    assert (report.ratios, report.losses) == ({"a": 1.5, "b": 3.0}, {"a": -0.25, "b": -0.75})
    update = report.update
    assert (update.loss, update.grad_norm, update.ratio_mean, update.clip_fraction) == (-1.0, 4.0, 2.0, 0.5)
    assert (update.entropy, update.kl) == pytest.approx((0.25, 0.2))
    assert (update.logprob_gap_mean, update.logprob_gap_max) == pytest.approx((0.2, 0.5))
    worst = [(gap.transition_id, gap.position, gap.token, gap.learner, gap.gap) for gap in report.worst_tokens]
    assert worst == [("b", 0, 13, -1.5, 0.5), ("a", 1, 11, -0.4, 0.1)]
    assert (report.masked, report.train_tokens, report.learning_rate) == (1, 3, 1e-5)
    figures = report.figures()
    assert {name: figures[name] for name in vars(update)} == vars(update) and figures["masked"] == 1, "in one row"
    assert report.train_tokens_per_s == 3 * 2 / 2.0, "a prompt of two and one more of a response of two, in two passes"


def test_the_gap_is_of_current_tokens_where_there_are_any():
    batch = policy_batch.build([GROUP], VERSION, 100, RlConfig(algorithm="ppo"))
    current = dataclasses.replace(FIRST, current=2, gap_current=0.2, gap_current_max=0.15)
    update = step_report.build(batch, [current], 1e-5, 2.0).update
    assert (update.logprob_gap_mean, update.logprob_gap_max) == pytest.approx((0.1, 0.15))
    assert update.logprob_gap_on_current


def test_a_step_without_a_gradient_has_figures_of_none():
    equal = [GROUP[0], dataclasses.replace(GROUP[2], reward=0.0)]
    report = step_report.build(policy_batch.build([equal], VERSION, 100, RlConfig()), [], 1e-5, 2.0)
    assert report.update is None and report.figures()["loss"] is None
    assert report.advantages == {"a": 0.0, "b": 0.0} and not report.ratios and not report.worst_tokens
