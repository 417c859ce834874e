"""The evaluation's arithmetic, its file, and what a partial one looks like."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from envs.records import Direction, Limits, Origin, Outcome, StepInfo, Task, Transition, Withheld
from learner.evaluation.evaluation import Evaluation, EvaluationError, summarise, table, tables
from learner.figures.statistics import VALID, distinct

EMPTY = np.zeros(0, np.int32)


def task(name: str, direction: Direction = Direction.MAXIMIZE, split: str = "held_in") -> Task:
    return Task(
        id=name,
        problem="",
        env_dir=Path(),
        private_dir=Path(),
        script="train.py",
        read_only=frozenset(),
        metric="mae" if direction is Direction.MINIMIZE else "accuracy",
        direction=direction,
        split=split,
        limits=Limits(),
        m_best=1.0,
        m_init=0.5,
    )


def attempt(task_id: str, reward: float, outcome: Outcome = Outcome.EDITED, score: float | None = None) -> Transition:
    return Transition(
        id=f"{task_id}/{reward}",
        group_id="g",
        state_id="s",
        task_id=task_id,
        prompt_ids=EMPTY,
        response_ids=EMPTY,
        behaviour_logprobs=EMPTY,
        version_spans=(),
        outcome=outcome,
        reward=reward,
        info=StepInfo(score_before=0.5, score_after=score),
    )


def tasks() -> dict[str, Task]:
    listed = [task("wine"), task("diabetes", Direction.MINIMIZE), task("linnerud", Direction.MINIMIZE, "held_out")]
    return {t.id: t for t in listed}


def stage_of(evaluation: dict, task_id: str, stage: str) -> dict:
    return next(t for t in evaluation["tasks"] if t["task"] == task_id)["stages"][stage]


def test_a_stage_counts_valid_attempts_and_leaves_infrastructure_failures_out():
    attempts = [
        attempt("wine", 0.9, score=0.8),
        attempt("wine", 0.5, Outcome.NEUTRAL),
        attempt("wine", 0.5, Outcome.TIMEOUT),
        attempt("wine", 0.0, Outcome.INVALID),
        attempt("wine", 1.0, Outcome.INFRA_FAILURE, score=99.0),
    ]
    found = stage_of(summarise([task("wine")], {"base": attempts}), "wine", "base")
    assert (found["n"], found["infra_failures"]) == (4, 1)
    assert found["mean_reward"] == pytest.approx(1.9 / 4) and found["valid_rate"] == 0.5
    assert found["mean_score"] == found["best_score"] == 0.8


def test_best_score_respects_direction_and_nothing_valid_is_null():
    attempts = [attempt("diabetes", 0.5, score=s) for s in (60.0, 50.0)] + [attempt("linnerud", 0, Outcome.INVALID)]
    evaluation = summarise(tasks().values(), {"sft": attempts})
    assert stage_of(evaluation, "diabetes", "sft")["best_score"] == 50.0
    nothing = stage_of(evaluation, "linnerud", "sft")
    assert nothing["mean_reward"] == 0 and nothing["mean_score"] is None and nothing["best_score"] is None
    assert stage_of(evaluation, "wine", "sft")["mean_reward"] is None  # not attempted


def test_the_best_is_chosen_by_validation_and_optimism_is_how_much_worse_it_is_on_test():
    def scored(name: str, score: float, test: float, whole: float | None = None) -> Transition:
        made = attempt(name, 0.5, score=score)
        return dataclasses.replace(made, info=dataclasses.replace(made.info, withheld=Withheld(test, whole)))

    divided = [dataclasses.replace(one, parts=Path(), m_init_test=0.4) for one in tasks().values()]
    attempts = [
        scored("wine", 0.9, 0.6, 0.75), scored("wine", 0.8, 0.85), scored("diabetes", 0.3, 0.2),
        scored("diabetes", 0.4, 0.1), scored("linnerud", 0.25, 0.2),
    ]  # fmt: skip
    found = summarise(divided, {"rl": attempts})
    wine = stage_of(found, "wine", "rl")
    assert (wine["best_score"], wine["best_test_score"], wine["best_whole_score"]) == (0.9, 0.6, 0.75)
    assert wine["mean_test_score"] == pytest.approx(0.725) and wine["optimism"] == pytest.approx(0.8 - 0.5)
    assert stage_of(found, "diabetes", "rl")["optimism"] == pytest.approx(0.4 - 0.5)
    of_split = found["splits"]["held_in"]["rl"]
    assert of_split["optimism"] == pytest.approx(0.1) and of_split["optimism_ci"] == pytest.approx([-0.1, 0.3])
    assert found["splits"]["held_out"]["rl"]["optimism_ci"] is None, "of one task"
    whole = summarise(tasks().values(), {"rl": attempts})
    assert not whole["tasks"][0]["divided"] and whole["splits"]["held_in"]["rl"]["optimism"] is None
    console = Console(width=120, file=io.StringIO())
    console.print(table(whole))
    assert "wine *" in console.file.getvalue()
    one_number = dataclasses.replace(attempts[0].info, withheld=Withheld(0.9, apart=False))
    alone = dataclasses.replace(attempts[0], info=one_number)
    marked = stage_of(summarise(tasks().values(), {"rl": [alone]}), "wine", "rl")
    assert (marked["best_score"], marked["best_test_score"], marked["mean_test_score"]) == (0.9, None, None)


def test_a_split_weighs_its_tasks_equally():
    attempts = [attempt("wine", 1.0)] * 9 + [attempt("diabetes", 0.0)]
    assert summarise(tasks().values(), {"rl": attempts})["splits"]["held_in"]["rl"]["mean_reward"] == 0.5


def test_stages_outlive_a_restart_and_a_stage_done_again_is_replaced(tmp_path):
    Evaluation(tmp_path, tasks()).add("base", [attempt("wine", 0.1)])
    resumed = Evaluation(tmp_path, tasks())
    resumed.add("rl", [attempt("wine", 0.9)])
    resumed.add("sft", [attempt("wine", 0.3)])
    resumed.add("sft", [attempt("wine", 0.5)])
    written = json.loads((tmp_path / "evaluation.json").read_text())
    stages = written["tasks"][0]["stages"]
    assert {name: stage["mean_reward"] for name, stage in stages.items()} == {"base": 0.1, "sft": 0.5, "rl": 0.9}
    assert list(stages) == list(written["splits"]["held_out"]) == ["base", "sft", "rl"]
    assert set(written["tasks"][0]) >= {"task", "split", "metric", "direction", "m_init", "stages"}


def test_whichever_stage_is_evaluated_last_each_is_by_its_gain_above_the_one_before(tmp_path):
    rewards = {"base": [0.1, 0.3], "sft": [0.5, 0.5], "rl": [0.6, 0.9]}
    evaluation = Evaluation(tmp_path, tasks())
    for stage in ("base", "sft", "rl", "sft", "base"):
        evaluation.add(stage, [attempt(name, reward) for name in tasks() for reward in rewards[stage]])
    for split in json.loads((tmp_path / "evaluation.json").read_text())["splits"].values():
        assert "gain" not in split["base"]
        for before, after in (("base", "sft"), ("sft", "rl")):
            assert split[after]["gain"] == pytest.approx(np.mean(rewards[after]) - np.mean(rewards[before]))


def test_a_stage_says_what_it_gained_over_the_one_before(tmp_path):
    evaluation, rng = Evaluation(tmp_path, tasks()), np.random.default_rng(0)

    def attempts(wine: float, diabetes: float) -> list[Transition]:
        return [
            attempt(name, mean + rng.normal(0, 0.1)) for name, mean in [("wine", wine), ("diabetes", diabetes)] * 50
        ]

    evaluation.add("sft", attempts(0.4, 0.2))
    found = evaluation.add("rl", attempts(0.6, 0.2))["splits"]["held_in"]
    low, high = found["rl"]["gain_ci"]
    assert low < found["rl"]["gain"] < high and 0.05 < low < 0.1 < high < 0.15
    assert "gain" not in found["sft"]
    assert "gain" not in evaluation._result["splits"]["held_out"]["rl"], "nothing was attempted there"


def test_the_table_shows_what_there_is():
    evaluation = summarise(tasks().values(), {"base": [attempt("wine", 0.123, score=0.987)]})
    console = Console(width=120, file=io.StringIO())
    console.print(table(evaluation))
    shown = console.file.getvalue()
    assert "0.123" in shown and "0.987" in shown and "mae ↓" in shown and "accuracy ↑" in shown
    assert "held-out mean" in shown and "sft" not in shown


@pytest.mark.parametrize(("width", "left_out"), [(160, ()), (120, ("mae ↓",)), (80, ("mae ↓", "0.987"))])
def test_a_table_of_three_stages_fits_and_cuts_nothing(width, left_out):
    attempts = {stage: [attempt("wine", 0.123, score=0.987)] for stage in ("base", "sft", "rl")}
    console = Console(width=width, file=io.StringIO())
    console.print(tables(summarise(tasks().values(), attempts)))
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= width and "…" not in shown and "0.123" in shown
    assert [text for text in ("mae ↓", "0.987") if text not in shown] == list(left_out)


def test_simulated_experiments_are_refused_and_cached_ones_count(tmp_path):
    evaluation = Evaluation(tmp_path, {"a": task("a")})
    cached = dataclasses.replace(attempt("a", 0.7, score=0.8), info=StepInfo(origin=Origin.CACHE))
    assert evaluation.add("base", [cached])["tasks"][0]["stages"]["base"]["mean_reward"] == 0.7
    simulated = dataclasses.replace(cached, info=StepInfo(origin=Origin.SIMULATED))
    with pytest.raises(EvaluationError, match="1 of 2 attempts were simulated"):
        evaluation.add("sft", [cached, simulated])
    assert list(json.loads((tmp_path / "evaluation.json").read_text())["tasks"][0]["stages"]) == ["base"]


def test_distinct_actions_are_counted_per_state():
    attempts = [
        dataclasses.replace(attempt("wine", 0.1, outcome), info=StepInfo(text=text), state_id=state)
        for state, text, outcome in [
            ("a", "ridge", Outcome.EDITED), ("a", "ridge ", Outcome.EDITED), ("a", "forest", Outcome.INVALID),
            ("b", "ridge", Outcome.EDITED), ("b", "lasso", Outcome.EDITED), ("b", "svm", Outcome.NEUTRAL),
        ]
    ]  # fmt: skip
    assert distinct(attempts) == 2.5 and distinct(attempts, VALID) == 2.0
    assert distinct([]) is None
    stages = summarise(tasks().values(), {"sft": attempts})["splits"]["held_in"]
    assert (stages["sft"]["distinct_actions"], stages["sft"]["distinct_valid"]) == (2.5, 2.0)
