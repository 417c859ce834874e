"""A learner step over all ranks: its mini-batches, and the weight of the entropy from step to step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from learner.algorithm.batching import Example
from learner.algorithm.policy_sums import PolicySums
from learner.config.defaults import defaults
from learner.config.schema import RlConfig
from learner.ranks.steps import Position, finetune_steps, policy_step
from tests.transitions import transition
from tests.unit.fake_run import report_of


class Ranks:
    """In the place of one process: tells what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple] = []

    def __len__(self) -> int:
        return 1

    def each(self, method: str, shards: list[Any], *args: Any) -> list[Any]:
        targets = sorted(int(target) for row in shards[0] for target in row.row.target_ids)
        self.asked.append((method, targets, *args))
        count = len(self.asked)
        return [PolicySums(loss=1.0, ratio=float(len(targets)), tokens=len(targets), gap=float(count), grad_norm=count)]


def made(**keys: Any) -> tuple[Any, list[tuple]]:
    """The report of a step on four groups, of which the second is of equal rewards, and what the ranks were asked."""
    cfg, ranks = defaults(), Ranks()
    cfg.learner.row_tokens = 100
    for name, value in keys.items():
        cfg.rl[name] = value
    groups = [
        [transition(f"{g}.{k}", [7], [10 * g + k], 0.5 if g == 1 else float(k)) for k in range(2)] for g in range(4)
    ]
    return policy_step(ranks, cfg, groups, 1, Position(rl_steps=9, entropy_added=0.25)), ranks.asked


def test_each_pass_has_a_step_for_each_mini_batch():
    report, asked = made(minibatches=2, epochs=2, entropy=0.5)
    rate, first, second = RlConfig().learning_rate, [0, 1, 10, 11], [20, 21, 30, 31]
    assert asked == [
        ("policy_step", first, rate, True, 0, 0.75),
        ("policy_step", second, rate, True, 1, 0.75),
        ("policy_step", first, rate, False, 0, 0.75),
        ("policy_step", second, rate, False, 1, 0.75),
    ]
    assert (report.update.loss, report.update.ratio_mean, report.update.grad_norm) == (2.0, 1.0, 4.0), (
        "of the last pass"
    )
    assert report.update.logprob_gap_mean == 1.0 / 4, "of the first step, before the weights have moved"
    assert report.entropy_weight == report.figures()["entropy_weight"] == 0.75


def test_what_has_no_gradient_is_no_mini_batch_and_more_than_groups_are_as_many():
    _, asked = made(minibatches=9)
    assert [targets for _, targets, *_ in asked] == [[0, 1], [20, 21], [30, 31]]
    assert all(one[1] == [0, 1, 20, 21, 30, 31] for one in made()[1])


@pytest.mark.parametrize("keys", [{"correction": "truncated"}, {"mask": "token"}])
def test_the_policy_that_a_step_began_with_is_asked_for_before_it_moves(keys):
    _, asked = made(minibatches=2, **keys)
    assert [(method, args[-1]) for method, _, *args in asked[:2]] == [("hold_proximal", 0), ("hold_proximal", 1)]
    assert [method for method, *_ in asked[2:]] == ["policy_step", "policy_step"]
    assert [method for method, *_ in made(**keys)[1]] == ["policy_step"], "one step has it from its own first pass"


@pytest.mark.parametrize(("batch", "prompts"), [(8, 2), (64, 4), (1, 1)])
def test_batches_of_fine_tuning_are_of_several_prompts(batch, prompts):
    class Learning(Ranks):
        def each(self, method: str, shards: list[Any], *args: Any) -> list[Any]:
            self.asked.append({int(row.input_ids[end]) for row in shards[0] for end in row.prompt_ends})
            return [(1.0, 1.0)]

    cfg, ranks = defaults(), Learning()
    cfg.learner.row_tokens, cfg.sft.batch = 100, batch
    ids = [np.array([number], np.int32) for number in range(68)]
    examples = [Example(ids[number % 4], ids[4 + number]) for number in range(64)]
    steps = list(finetune_steps(ranks, cfg, examples, Position()))
    assert len(steps) == len(ranks.asked) == 64 // batch
    assert all(len(of_batch) == prompts for of_batch in ranks.asked)


def test_the_weight_of_the_entropy_is_steered_to_the_target_and_never_negative():
    rl, position, added = RlConfig(entropy=0.01, entropy_target=1.0, entropy_step=0.005), Position(), []
    for entropy in (0.5, 0.5, 2.0, 2.0, 2.0, 2.0, 2.0, 0.5):
        position.trained(rl, report_of({"entropy": entropy}))
        added.append(position.entropy_added)
    assert added == pytest.approx([0.005, 0.01, 0.005, 0, -0.005, -0.01, -0.01, -0.005])
    position.trained(rl, report_of(None))
    position.trained(RlConfig(), report_of({"entropy": 0.1}))
    assert position.entropy_added == pytest.approx(-0.005) and position.rl_steps == 10
