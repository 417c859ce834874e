"""The arithmetic of cost, against figures worked out by hand."""

from pathlib import Path

import pytest

from learner.reporting import costs
from learner.reporting.report_data import RunData


def stage(reward: float | None, n: int = 10, seconds: float = 36.0, tokens: int = 1000) -> dict:
    return {
        "mean_reward": reward, "n": n, "infra_failures": 1, "experiment_seconds": seconds, "response_tokens": tokens
    }  # fmt: skip


def move(task: str, group: str, seconds: float, origin: str = "run") -> dict:
    return {
        "step": 1, "task_id": task, "group_id": group, "prompt_ids": 200, "response_ids": 500,
        "execute_seconds": seconds, "origin": origin,
    }  # fmt: skip


def run(**parts) -> RunData:
    config = {
        "learner": {"ranks": 2, "cpus": 1.0, "gpus": 1.0},
        "actors": {"count": 3, "cpus": 2.0, "gpus": 0.0},
        "report": {"gpu_hour": 4.0, "cpu_hour": 0.1, "million_tokens": 1000.0},
    }
    results = {
        "tasks": [
            {"task": "wine", "stages": {"base": stage(0.2), "rl": stage(0.6)}},
            {"task": "iris", "stages": {"base": stage(None), "rl": stage(0.5)}},
        ],
        "splits": {"held_in": {"base": stage(0.2), "rl": stage(0.45)}},
    }
    known = {
        "dir": Path("/runs/one"), "config": config, "about": None, "status": None, "results": results, "agents": None,
        "finetuning": [], "kept_back": {}, "rows": [{"seconds": 1800.0}, {"seconds": 1800.0}],
        "moves": [move("wine", "a", 72.0), move("wine", "a", 100.0, "cache"), move("iris", "b", 36.0)],
        "expert": [{"task": "wine", "execute": 36.0, "origin": "run"}],
    }  # fmt: skip
    return RunData(**(known | parts))


def test_what_each_task_took_and_its_price():
    """An hour of 2·1 + 3·2 cores at 0.1 and of 2 GPUs at 4 is 8.8, shared over 5,500 generated tokens."""
    found = costs.of_run(run())
    wine, iris = found.tasks["wine"], found.tasks["iris"]
    assert (found.hours, found.cpus, found.gpus) == (1.0, 8.0, 2.0)
    assert (wine.actions, wine.generated, wine.trained) == (22 + 1 + 2, 3000, 1200)
    assert wine.experiment_seconds == 72 + 36 + 72  # what came out of the cache cost nothing
    assert wine.price == pytest.approx(8.8 * 3000 / 5500 + 180 / 3600 * 0.1 + 3.0)
    assert iris.price == pytest.approx(8.8 * 2500 / 5500 + 108 / 3600 * 0.1 + 2.5)
    assert found.total.price == pytest.approx(wine.price + iris.price)


def test_price_of_a_gain_is_stated_only_where_there_is_one():
    found = costs.of_run(run())
    assert found.total.gain == pytest.approx(0.25)
    assert found.total.price_of_gain == pytest.approx(found.total.price / 25)
    assert found.tasks["iris"].gain is None and found.tasks["iris"].price_of_gain is None
    assert costs.Cost(price=1.0, gain=-0.1).price_of_gain is None


def test_a_run_that_did_nothing_yet_costs_its_machines_time():
    empty = costs.of_run(run(results={"tasks": [], "splits": {}}, moves=[], expert=[]))
    assert empty.tasks == {} and empty.total.price == pytest.approx(8.8) and empty.total.gain is None
