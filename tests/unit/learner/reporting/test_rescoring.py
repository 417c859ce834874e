"""Another reward on a stored run: what changes is told, and what is not stored is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from learner import rescore
from learner.reporting.rescoring import Rescored, changes
from learner.run import transitions
from tests.unit import fake_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run.make(tmp_path_factory.mktemp("runs") / "run", steps=2, actions=8)


def of_group(before: list[float], after: list[float]) -> list[Rescored]:
    pairs = zip(before, after, strict=True)
    return [Rescored(1, f"g/{i}", "g", "wine", "edited", old, new) for i, (old, new) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("before", "after", "reordered", "turned"),
    [
        ([0.0, 0.5, 1.0], [0.1, 0.2, 0.3], 0, 0),
        ([0.0, 0.6, 1.0], [0.0, 0.2, 1.0], 0, 1),  # the middle one is below the mean now
        ([0.0, 1.0], [1.0, 0.0], 2, 2),
        ([0.0, 1.0, 2.0], [0.0, 2.0, 1.0], 2, 2),  # from the mean to above it, and back
        ([0.5, 0.5], [0.0, 1.0], 2, 2),
    ],
)
def test_order_and_signs_are_those_within_a_group(
    before: list[float], after: list[float], reordered: int, turned: int
) -> None:
    found = changes(of_group(before, after), "grpo")
    assert (found.reordered, found.turned) == (reordered, turned)
    assert changes(of_group(before, after), "ppo").turned is None
    assert changes(of_group(before, after), "grpo", discount=0.5).turned is None, "the future is in it"


def test_groups_are_not_compared_with_each_other() -> None:
    first, second = of_group([0.0, 1.0], [0.0, 1.0]), of_group([5.0, 6.0], [0.5, 0.6])
    second = [Rescored(2, one.id, "h", one.task, one.outcome, one.before, one.after) for one in second]
    found = changes([*first, *second], "grpo")
    assert (found.reordered, found.turned, found.changed, found.actions) == (0, 0, 2, 4)


def test_each_reward_is_that_of_its_own_result_and_masked_ones_have_none(run_dir: Path, capsys) -> None:
    assert rescore.main([str(run_dir), "reward.version=v2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    stored = [row for row in transitions.read(run_dir) if row["outcome"] != "infra_failure"]
    assert told["all"]["actions"] == len(stored) and told["after"]["version"] == "v2"
    expected = []
    for row in stored:
        task = fake_run.TASKS[row["task_id"]]
        gain = task.direction.sign * ((row["score_after"] or 0) - row["score_before"])
        span = task.direction.sign * (task.m_best - task.m_init)
        failed = row["outcome"] in ("invalid", "script_error")
        edited = gain / (span if span > 0 else abs(task.m_init))
        expected.append(edited if row["outcome"] == "edited" else -1.0 if failed else 0.0)
    assert told["all"]["mean_after"] == pytest.approx(sum(expected) / len(expected))
    assert told["all"]["mean_before"] == pytest.approx(sum(row["reward"] for row in stored) / len(stored))
    assert sum(of["actions"] for of in told["tasks"].values()) == len(stored)


def test_a_table_says_it_to_people(run_dir: Path, capsys) -> None:
    assert rescore.main([str(run_dir), "reward.steepness=3"]) == 0
    said = capsys.readouterr().out
    assert "reward.steepness=3" in said and "digits" in said and "→" in said
    assert "stored rewards are not what the run's own reward gives today" in said  # they are made up


@pytest.mark.parametrize(
    ("read", "named"),
    [
        ("'x' in result.observation", "result.observation"),
        ("len(result.observation)", "result.observation"),
        ("result.state.history", "result.state"),
        ("(task.env_dir / 'train.csv').exists()", "task.env_dir"),
        ("task.problem == ''", "task.problem"),
    ],
)
def test_what_is_not_stored_is_refused_by_name(run_dir: Path, monkeypatch, capsys, read: str, named: str) -> None:
    code = compile(read, "reward", "eval")
    used: list[bool] = []  # when the configuration is read a reward is tried on samples, which have all

    def mine(result, task, terms):
        if task.id != "sample":
            used.append(True)
            eval(code, {"result": result, "task": task})
        return {"none": 0.0}

    monkeypatch.setitem(sys.modules, "my_rewards_of_test", SimpleNamespace(mine=mine))
    assert rescore.main([str(run_dir), "reward.version=my_rewards_of_test:mine"]) == 1
    assert used and f"error: this reward reads {named}, which a run does not store" in capsys.readouterr().err


def test_a_reward_over_the_best_so_far_is_of_runs_that_stored_it(run_dir: Path, tmp_path: Path, capsys) -> None:
    run = shutil.copytree(run_dir, tmp_path / "run")
    assert rescore.main([str(run), "reward.version=v2", "reward.over=best", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["all"]["changed"] > 0
    for file in run.glob("transitions/*.parquet"):  # as an earlier version wrote it
        pq.write_table(pq.read_table(file).drop_columns("best_before"), file)
    assert rescore.main([str(run), "reward.version=v2"]) == 0
    capsys.readouterr()
    assert rescore.main([str(run), "reward.version=v2", "reward.over=best"]) == 1
    assert "error: this reward reads result.best_before, which a run does not store" in capsys.readouterr().err


def test_what_cannot_be_rescored_says_why(run_dir: Path, tmp_path: Path, capsys) -> None:
    assert rescore.main([str(tmp_path)]) == 1
    assert "holds no run" in capsys.readouterr().err
    assert rescore.main([str(run_dir), "reward.versoin=v2"]) == 2
    assert "did you mean reward.version?" in capsys.readouterr().err
    early = fake_run.make(tmp_path / "early", steps=0)
    assert rescore.main([str(early)]) == 1
    assert "has no transitions" in capsys.readouterr().err
    (early / "tasks.json").write_text("[{]")
    assert rescore.main([str(early)]) == 1
    assert "tasks.json cannot be read" in capsys.readouterr().err
    (early / "tasks.json").unlink()
    assert rescore.main([str(early)]) == 1
    assert "tasks.json is missing: the run is of an earlier version" in capsys.readouterr().err
