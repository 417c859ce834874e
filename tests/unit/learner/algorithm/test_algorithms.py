"""The socket of `rl.algorithm`: an algorithm from outside is trained with, or refused before anything starts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from learner.algorithm import algorithms, best_of, policy_batch
from learner.algorithm.advantages import advantages
from learner.algorithm.best_of import Best
from learner.algorithm.losses import Objective, policy_loss
from learner.algorithm.policy_step import row_loss
from learner.config.load import ConfigError, load
from learner.config.schema import RlConfig
from tests.unit.learner.algorithm.test_policy_batch import GROUPS, VERSION

OUTSIDE = """
import dataclasses

import numpy as np

from learner.algorithm.algorithms import Algorithm
from learner.algorithm.losses import policy_loss


def centred(rewards):
    return rewards - rewards.mean()


def centre(rewards):
    rewards -= rewards.mean()
    return rewards


def cispo(logprobs, entropy, tokens, objective):
    figures = policy_loss(logprobs, entropy, tokens, objective)
    ratio = (logprobs - tokens.behaviour).exp().detach().clamp(max=1 + objective.clip)
    parts = -tokens.weights * ratio * tokens.advantages * logprobs
    return dataclasses.replace(figures, loss=parts.sum(), parts=parts.detach())


mine = Algorithm(centred, loss=cispo)
doubled = Algorithm(centred, scaled=lambda unbiased, rewards: 2 * unbiased)
cut = Algorithm(centred, scaled=lambda unbiased, rewards: unbiased[:1])
inplace = Algorithm(centre)
raw = Algorithm(lambda rewards: rewards, value_head=True)
function = centred
short = Algorithm(lambda rewards: rewards[:1])
endless = Algorithm(lambda rewards: rewards / 0)
binary = Algorithm(lambda rewards, groups: rewards)
lossless = Algorithm(centred, loss=lambda logprobs, entropy, tokens, objective: logprobs.sum())
stuck = Algorithm(centred, loss=lambda *args: dataclasses.replace(policy_loss(*args), loss=args[0].sum().detach()))
"""


@pytest.fixture(autouse=True)
def outside(tmp_path, monkeypatch):
    package = tmp_path / "outside_algorithms"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "own.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)


def test_an_algorithm_from_outside_gives_advantages_and_loss():
    path = "outside_algorithms.own:mine"
    assert load([f"rl.algorithm={path}"]).rl.algorithm == path
    batch = policy_batch.build(GROUPS, VERSION, 100, RlConfig(algorithm=path))
    assert batch.advantages == pytest.approx({"a.0": -0.5, "a.2": 0.5, "b.0": 0, "b.1": 0, "c.0": 1, "c.1": -1})
    assert {t.id for t in batch.members} == {"a.0", "a.2", "c.0", "c.1"}, "a group of zeros is not computed"

    [policy_row] = batch.rows
    logprobs = torch.tensor(policy_row.behaviour + 0.5, requires_grad=True)
    entropy, proximal = torch.zeros_like(logprobs), logprobs.detach()
    loss, _ = row_loss(
        policy_row, logprobs, entropy, None, proximal, None, Objective(clip=0.2), algorithms.named(path).loss
    )
    loss.backward()
    expected = -policy_row.weights * 1.2 * policy_row.advantages  # the ratio, e^0.5, is cut, and keeps its gradient
    assert logprobs.grad.tolist() == pytest.approx(expected.tolist())


def test_one_from_outside_goes_with_another_objective_where_it_says_how_advantages_are_scaled():
    given = ["rl.objective=best_of", "rl.best_of=2"]
    with pytest.raises(ConfigError, match="cannot go with rl.objective=best_of"):
        load([*given, "rl.algorithm=outside_algorithms.own:mine"])
    load([*given, "rl.algorithm=outside_algorithms.own:doubled"])
    rewards = np.array([0.0, 1.0, 3.0])
    got = algorithms.advantages_of("outside_algorithms.own:doubled", rewards, Best(2))
    assert got.tolist() == pytest.approx((2 * best_of.advantages(rewards, Best(2))).tolist())
    with pytest.raises(ConfigError, match="must be as many finite numbers"):
        load([*given, "rl.algorithm=outside_algorithms.own:cut"])


def test_where_values_are_learned_equal_groups_teach():
    result = advantages("outside_algorithms.own:raw", [2, 2, 0, 9], [0, 0, 1, 1], [True, True, True, False])
    assert result.values.tolist() == [2, 2, 0, 0]
    assert result.informative.tolist() == [True, True, True, False]
    assert result.equal_groups == 2


def test_a_function_cannot_change_the_rewards_of_the_batch():
    rewards = np.array([0.0, 1.0])
    assert algorithms.advantages_of("outside_algorithms.own:inplace", rewards).tolist() == [-0.5, 0.5]
    assert rewards.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nowhere_at_all:mine", "cannot be imported (ModuleNotFoundError: No module named 'nowhere_at_all')"),
        ("outside_algorithms.own:nothing", "cannot be imported (AttributeError"),
        ("outside_algorithms.own:", "is no import path"),
        ("outside_algorithms.own:function", "not a learner.algorithm.algorithms.Algorithm"),
        ("outside_algorithms.own:binary", "TypeError"),
        ("outside_algorithms.own:short", "must be as many finite numbers"),
        ("outside_algorithms.own:endless", "must be as many finite numbers"),
        ("outside_algorithms.own:lossless", "must return a PolicyLoss"),
        ("outside_algorithms.own:stuck", "one finite number with a gradient"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_what_cannot_be_used_is_refused_with_the_configuration(path, reason):
    with pytest.raises(ConfigError) as refusal:
        load([f"rl.algorithm={path}"])
    assert str(refusal.value).startswith(f"rl.algorithm={path}")
    assert reason in str(refusal.value)


def test_those_of_the_project_pass_the_same_check():
    for name in algorithms.ALGORITHMS:
        algorithms.check(name)
    own_loss = dataclasses.replace(algorithms.ALGORITHMS["ppo"], loss=policy_loss)
    algorithms._check_loss("policy_loss", own_loss.loss)
