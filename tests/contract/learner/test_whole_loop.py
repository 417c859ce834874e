"""The whole loop in one process, apart from ours: what was delivered is trained; what ends or changes a run does."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest

from learner import rescore
from learner.ranks.handle import Learner
from learner.run import transitions
from tests import apart, whole_run
from tests.main_job import require_trained

TURNS = (
    "actors.colocate=true", "learner.gpus=0.5", "actors.gpus=0.5", "rl.kl=0.1", "rl.max_staleness=0",
    "checkpoint.every=1", "learner.check_every=1", "actors.replacements=1", "learner.restarts=1",
)  # fmt: skip
"""Whatever a run asks of learner and engine, where they have one card in turns."""
MASKED = ("infra_failure", "truncated")
"""Outcomes that are not trained on, unless the configuration says otherwise."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_run.small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(elsewhere: Executor, tmp_path: Path, model: Path) -> Callable[..., Any]:
    """What a run there with those arguments shows, in the test's folder."""
    return lambda *arguments: apart.ask(elsewhere, whole_run.run, arguments, tmp_path, model)


def test_every_delivered_transition_is_trained(run: Callable[..., Any], tmp_path: Path) -> None:
    seen = run("rl.steps=3")
    assert seen["error"] == [] and len(seen["steps"]) == 3
    assert all(row["loss"] is not None for row in seen["steps"])
    cut = [one for one in transitions.read(tmp_path / "seen") if one["outcome"] == "truncated"]
    assert cut and all(len(one["response_ids"]) == 120 and one["advantage"] is None for one in cut)
    require_trained(tmp_path / "seen", masked=MASKED)
    assert rescore.compared(tmp_path / "seen", [])["unlike"] == 0


OTHER_REWARD = (
    "rl.episode_steps=2", "audit.mask=true", "reward.version=v2", "reward.time=0.5", "reward.memory=0.25",
    "reward.milestones=0.5", "reward.truncated=soft",
)  # fmt: skip


def test_the_rewards_of_episodes_come_out_of_what_a_run_stored(run: Callable[..., Any], tmp_path: Path) -> None:
    seen = run(*OTHER_REWARD)
    assert seen["error"] == [] and sum(row["suspicious"] for row in seen["steps"]) > 0
    told = rescore.compared(tmp_path / "seen", [])
    assert (told["unlike"], told["largest"]) == (0, []) and told["all"]["changed"] == 0
    assert rescore.compared(tmp_path / "seen", ["reward.version=v1"])["all"]["changed"] > 0


def half_trained(folder: Path, model: Path) -> None:
    train = Learner.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "train", lambda self, groups, version: train(self, groups[:1], version))
        whole_run.run([], folder, model)


def test_a_learner_that_trains_on_half_of_each_batch_is_noticed(
    elsewhere: Executor, model: Path, tmp_path: Path
) -> None:
    apart.ask(elsewhere, half_trained, tmp_path, model)
    with pytest.raises(AssertionError):
        require_trained(tmp_path / "seen", masked=MASKED)


def test_a_run_whose_engine_disagrees_with_its_learner_stops_with_the_worst_tokens(run: Callable[..., Any]) -> None:
    seen = run("rl.gap_warn=0.001", "rl.gap_stop=0.002")
    assert "rl.gap_stop=0.002; the worst tokens:" in seen["error"][0]
    assert seen["steps"] == [] and seen["checkpoints"] == ["step_0"]
    token = re.compile(r"  group-\d{6}/\d{3} token \d+ .* engine -[\d.]+, learner -[\d.]+")
    assert len([line for line in seen["error"][1:] if token.fullmatch(line)]) > 3


def in_turns(folder: Path, model: Path) -> list[dict[str, Any]]:
    first = whole_run.run(TURNS, folder, model, {"engines": 1, "ranks": 1})
    return [first, whole_run.run([*TURNS, "rl.steps=3", "run.resume=true"], folder, model)]


def test_learner_and_engine_have_a_card_in_turns(elsewhere: Executor, model: Path, tmp_path: Path) -> None:
    """Fine-tuning, reference, steps, checkpoints, evaluations, deaths and resuming; whoever is asked for something that
    is not in its turn fails (`stand_ins`)."""
    first, resumed = apart.ask(elsewhere, in_turns, tmp_path, model)
    assert first["error"] == resumed["error"] == [] and len(resumed["steps"]) == 3
    require_trained(tmp_path / "seen", masked=MASKED)
    turns = [
        sum(what in one for one in first["turns"])
        for what in ("engine rests", "learner wakes", "learner rests", "engine wakes")
    ]
    # To fine-tune, to hold the reference, in two steps and two checkpoints; before all of them the learner gives way.
    assert turns == [6, 6, 7, 6]


def test_states_that_improved_a_script_join_the_pool_and_stay_in_a_resumed_run(run: Callable[..., Any]) -> None:
    first = run("rl.grow_pool=true")
    more = run("rl.grow_pool=true", "rl.steps=4", "run.resume=true")
    assert 0 < first["added"][-1] < more["added"][-1]
    assert len(more["steps"]) == 4


TESTED = {"suspicious", "findings", "m_init_test", "mean_test_score", "best_test_score", "optimism", "optimism_ci"}


def without(names: set[str], tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: without(names, value) for name, value in tree.items() if name not in names}
    return [without(names, one) for one in tree] if isinstance(tree, list) else tree


def with_other_test_scores(folder: Path, model: Path) -> list[dict[str, Any]]:
    arguments = ["tasks.held_in=[wine]", "rl.grow_pool=true", "rl.steps=2"]
    return [whole_run.run(arguments, folder / str(worse), model, {"tests": worse}) for worse in (0, 10)]


def test_scores_on_test_change_what_is_reported_of_a_run_and_nothing_else(
    elsewhere: Executor, model: Path, tmp_path: Path
) -> None:
    """Neither what is imitated, sampled, rewarded, learned or added to the pool, nor what an evaluation chooses."""
    seen = apart.ask(elsewhere, with_other_test_scores, tmp_path, model)
    figures = [[split["rl"]["optimism"] for split in one["evaluation"]["splits"].values()] for one in seen]
    assert figures[0] != figures[1], "they were other ones"
    assert without(TESTED, seen[0]) == without(TESTED, seen[1])
    assert seen[0]["error"] == [] and seen[0]["added"][-1] > 0
