"""The figures of an evaluation, against values worked out by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from actors.attempts import EPISODE, STEP, Attempt, Tried
from envs.records import Direction, Durations, Origin, Outcome, Withheld
from learner.evaluation import scoreboard, scores
from tests.unit.learner.evaluation.test_evaluation import task

ACCURACY = dataclasses.replace(task("wine"), m_init=0.5, m_best=0.9, medals=(("gold", 0.85), ("bronze", 0.7)))
ERROR = dataclasses.replace(task("diabetes", Direction.MINIMIZE), m_init=50.0, m_best=40.0)
TASKS = {"wine": ACCURACY, "diabetes": ERROR}


def tried(score: float | None, outcome: Outcome = Outcome.EDITED, **fields) -> Tried:
    known = {
        "text": "", "action": "edit", "outcome": outcome, "score": score, "score_before": None, "score_after": score,
        "reward": 0.5, "prompt_tokens": 100, "response_tokens": 20, "seconds": 2.0,
        "durations": Durations(execute=3.0 if outcome in (Outcome.EDITED, Outcome.SCRIPT_ERROR) else 0.0),
    }  # fmt: skip
    return Tried(**(known | fields))


def attempt(
    task_id: str, *of: Tried, setting: str = EPISODE, start: float | None = None, failure: str = "", seed: int = 0
) -> Attempt:
    begin = TASKS[task_id].m_init if start is None else start
    return Attempt("agent", setting, task_id, "s", seed, begin, of, failure)


BROKEN = tried(None, Outcome.SCRIPT_ERROR, reward=0.0)


def test_an_episode_counts_its_best_script_and_a_step_its_edit():
    better_then_worse = (tried(0.6), tried(0.55))
    assert scores.reached(attempt("wine", *better_then_worse), ACCURACY) == 0.6
    assert scores.reached(attempt("wine", tried(0.4), BROKEN), ACCURACY) == 0.5
    assert scores.reached(attempt("diabetes", tried(45.0), tried(48.0)), ERROR) == 45.0
    assert scores.reached(attempt("wine", tried(0.4), setting=STEP), ACCURACY) == 0.4
    assert scores.reached(attempt("wine", BROKEN, setting=STEP), ACCURACY) == 0.5
    inspected = tried(0.5, Outcome.NEUTRAL, score_after=None)
    assert scores.reached(attempt("wine", inspected, setting=STEP, start=0.6), ACCURACY) == 0.6, "it edited nothing"


def test_improvement_and_gap_are_relative_to_the_unchanged_script():
    assert scores.improvement(attempt("wine", tried(0.6)), ACCURACY) == pytest.approx(0.2)
    assert scores.gap_closed(attempt("wine", tried(0.6)), ACCURACY) == pytest.approx(0.25)
    assert scores.improvement(attempt("diabetes", tried(45.0)), ERROR) == pytest.approx(0.1)
    assert scores.gap_closed(attempt("diabetes", tried(45.0)), ERROR) == pytest.approx(0.5)
    later = attempt("wine", tried(0.7), setting=STEP, start=0.6)
    assert scores.improvement(later, ACCURACY) == pytest.approx(0.2)
    assert scores.gap_closed(later, ACCURACY) == pytest.approx(0.25)
    worse = attempt("diabetes", tried(60.0), setting=STEP)
    assert (scores.improvement(worse, ERROR), scores.gap_closed(worse, ERROR)) == pytest.approx((-0.2, -1.0))
    for best in (None, 0.5, 0.4):
        assert scores.gap_closed(later, dataclasses.replace(ACCURACY, m_best=best)) is None
    negative = dataclasses.replace(ACCURACY, m_init=-2.0)  # such as R²
    assert scores.improvement(attempt("wine", tried(-1.0), start=-2.0), negative) == pytest.approx(0.5)
    zero = dataclasses.replace(ACCURACY, m_init=0.0)
    assert scores.improvement(attempt("wine", tried(0.3), start=0.0), zero) == pytest.approx(0.3)


def test_medals_are_those_of_the_test_score_and_beside_them_those_of_all_answers():
    made = [attempt("wine", tried(1.0, withheld=Withheld(test, whole)))
            for test, whole in ((0.86, 0.9), (0.7, 0.9), (0.69, 0.1))]  # fmt: skip
    assert [scores.medal(one, ACCURACY) for one in made] == ["gold", "bronze", None]
    assert [scores.official_medal(one, ACCURACY) for one in made] == ["gold", "gold", None]
    assert scores.medal(attempt("diabetes", tried(1.0)), ERROR) is None
    kept = dataclasses.replace(attempt("wine", BROKEN), start_test=0.75)
    assert scores.medal(kept, ACCURACY) == "bronze", "that of the script that it begins with"


def test_test_figures_are_of_what_validation_chose_and_optimism_is_what_it_promised_too_much():
    """Of the episode the script with 0.7 on validation is kept, which has 0.6 on test, not the one with 0.9 there."""
    divided = {name: dataclasses.replace(of, parts=Path()) for name, of in TASKS.items()}
    divided["wine"] = dataclasses.replace(divided["wine"], m_init_test=0.4)
    divided["diabetes"] = dataclasses.replace(divided["diabetes"], m_init_test=40.0)
    wine = attempt("wine", tried(0.6, withheld=Withheld(0.9)), tried(0.7, withheld=Withheld(0.6)))
    wine = dataclasses.replace(wine, start_test=0.4)
    diabetes = attempt("diabetes", tried(40.0, withheld=Withheld(38.0)), tried(None, Outcome.SCRIPT_ERROR))
    diabetes = dataclasses.replace(diabetes, start_test=40.0)
    found = scores.figures([wine, diabetes], divided)
    assert found["improvement"] == pytest.approx((0.4 + 0.2) / 2)
    assert found["test_improvement"] == found["best_test_improvement"] == pytest.approx((0.5 + 0.05) / 2)
    assert found["optimism"] == pytest.approx((-0.1 + 0.15) / 2)
    assert found["optimism_ci"] == pytest.approx([-0.1, 0.15]), "over tasks"
    better = dataclasses.replace(attempt("wine", tried(0.8, withheld=Withheld(0.4))), start_test=0.4)
    assert scores.figures([wine, better], divided)["best_test_improvement"] == 0.0, "the best on validation"
    whole = scores.figures([wine, diabetes], divided | {"wine": dataclasses.replace(divided["wine"], parts=None)})
    assert whole["optimism"] == pytest.approx(0.15) and whole["optimism_ci"] is None, "a task without parts has none"
    assert whole["test_improvement"] == whole["best_test_improvement"] == pytest.approx(0.05), "nor a figure on test"
    unknown = scores.figures([attempt("wine", tried(0.6))], TASKS)
    assert (unknown["test_improvement"], unknown["best_test_improvement"], unknown["optimism"]) == (None, None, None)


def test_figures_of_two_tasks_weigh_them_the_same():
    found = scores.figures(
        [
            attempt("wine", tried(0.6), BROKEN),
            attempt("wine", tried(0.5, origin=Origin.CACHE)),
            attempt("wine", tried(0.9), failure="the node was lost"),
            attempt("diabetes", tried(45.0), tried(45.0, Outcome.NEUTRAL, score_after=None)),
        ],
        TASKS,
    )
    assert (found["n"], found["cut"], found["actions"], found["experiments"], found["cached"]) == (3, 1, 5, 4, 1)
    assert found["improvement"] == pytest.approx((0.1 + 0.1) / 2)  # wine: 0.2 and 0
    assert found["best_improvement"] == pytest.approx((0.2 + 0.1) / 2)
    assert found["gap"] == pytest.approx((0.125 + 0.5) / 2)
    assert found["best_gap"] == pytest.approx((0.25 + 0.5) / 2)
    assert found["valid_rate"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["reward"] == pytest.approx(((0.25 + 0.5) / 2 + 0.5) / 2)
    assert found["medals"] == {"gold": 0, "bronze": 0}
    assert (found["experiment_seconds"], found["generate_seconds"]) == (12.0, 10.0)
    assert (found["prompt_tokens"], found["response_tokens"]) == (500, 100)
    low, high = found["improvement_ci"]
    assert low == pytest.approx(0.05) and high == pytest.approx(0.15)  # wine resampled: 0, 0.1 or 0.2
    for name in ("improvement", "gap", "reward"):
        low, high = found[f"{name}_ci"]
        assert low < found[name] < high


def test_an_attempt_without_actions_has_no_reward_and_one_without_a_known_best_no_gap():
    unknown = {name: dataclasses.replace(of, m_best=None) for name, of in TASKS.items()}
    begun = scores.figures([attempt("wine"), attempt("diabetes", tried(45.0))], unknown)
    assert (begun["n"], begun["actions"], begun["reward"], begun["valid_rate"]) == (2, 1, 0.5, 1.0)
    assert begun["improvement"] == pytest.approx((0 + 0.1) / 2)
    assert (begun["gap"], begun["gap_ci"], begun["best_gap"]) == (None, None, None)
    one_known = scores.figures(
        [attempt("wine", tried(0.6)), attempt("diabetes", tried(45.0))], unknown | {"wine": ACCURACY}
    )
    assert one_known["gap"] == pytest.approx(0.25), "a task without a gap does not count as one that closed none"


def test_nothing_is_null():
    found = scores.figures([attempt("wine", failure="the node was lost")], TASKS)
    assert (found["n"], found["cut"]) == (0, 1)
    for name in ("improvement", "improvement_ci", "best_improvement", "gap", "gap_ci", "valid_rate", "reward"):
        assert found[name] is None


def test_a_difference_is_of_the_trials_that_both_made():
    """Attempts vary far more than the agents differ: by 0.02 of accuracy, 0.04 of m_init, give or take 0.01."""
    rng = np.random.default_rng(0)
    luck, gains = rng.uniform(0.5, 0.8, 30), rng.uniform(0.01, 0.03, 30)
    theirs = [attempt("wine", tried(score), seed=i) for i, score in enumerate(luck)]
    mine = [attempt("wine", tried(score), seed=i) for i, score in enumerate(luck + gains)]
    alone = [attempt("wine", tried(0.99), seed=99), attempt("diabetes", tried(1.0))]
    cut = [attempt("wine", tried(0.99), seed=0, failure="the node was lost")]
    found = scores.difference([*mine[1:], *cut, *alone], theirs, TASKS)
    apart = np.mean(gains[1:]) / 0.5
    assert found["improvement"] == pytest.approx(apart)
    low, high = found["improvement_ci"]
    assert 0.02 < low < apart < high < 0.06
    assert found["reward"] == 0 and found["reward_ci"] == [0, 0]
    nothing = scores.difference(alone, theirs, TASKS)
    assert nothing["improvement"] is None and nothing["improvement_ci"] is None


@pytest.mark.parametrize("apart", [{"setting": STEP}, {"task_id": "other"}, {"state_id": "t"}, {"seed": 1}], ids=str)
def test_only_the_same_trial_of_the_other_is_compared(apart):
    mine, theirs = attempt("wine", tried(0.6)), attempt("wine", tried(0.5))
    tasks = {"wine": ACCURACY, "other": ACCURACY}
    assert scores.difference([mine], [theirs], tasks)["improvement"] == pytest.approx(0.2)
    assert scores.difference([mine], [dataclasses.replace(theirs, **apart)], tasks)["improvement"] is None


def test_a_difference_weighs_tasks_the_same_and_leaves_out_what_was_not_rewarded():
    def reward(of: float) -> Tried:
        return tried(0.6, reward=of)

    mine = [*(attempt("wine", reward(0.5), seed=i) for i in range(3)), attempt("diabetes", reward(0.9), tried(45.0))]
    theirs = [*(attempt("wine", reward(0.25), seed=i) for i in range(3)), attempt("diabetes", reward(0.1), tried(50.0))]
    found = scores.difference([*mine, attempt("wine", seed=7)], [*theirs, attempt("wine", reward(0.9), seed=7)], TASKS)
    assert found["reward"] == pytest.approx((0.25 + 0.4) / 2)
    assert found["reward_ci"] == pytest.approx([found["reward"]] * 2)
    assert scores.difference(mine, theirs, {"wine": ACCURACY})["reward"] == pytest.approx(0.25)


def test_the_result_compares_with_the_first_agent_and_the_tables_show_it():
    found = {
        "before": [attempt("wine", tried(0.5)), attempt("wine", tried(0.5), setting=STEP)],
        "search": [attempt("wine", tried(0.87, withheld=Withheld(0.86)))],  # takes no single steps
    }
    tasks = {"wine": ACCURACY}
    result = scoreboard.result(["before", "search"], found, tasks)
    of_split = result["splits"]["held_in"]
    assert set(of_split["before"]) == {STEP, EPISODE} and set(of_split["search"]) == {EPISODE}
    assert "over" not in of_split["before"][EPISODE]
    assert of_split["search"][EPISODE]["over"]["agent"] == "before"
    assert of_split["search"][EPISODE]["over"]["improvement"] == pytest.approx(0.74)
    assert result["tasks"][0]["agents"]["search"][EPISODE]["medals"] == {"gold": 1, "bronze": 0}
    whole = {**result, "agents": [{"name": "before"}, {"name": "search"}], "settings": {"attempts": 1, "steps": 3}}
    shown = text_of(scoreboard.tables(whole))
    for part in ("episodes of at most 3 actions", "+74.0% [+74.0, +74.0]", "92%", "1/1", "single steps from fixed"):
        assert part in shown
    narrow = text_of(scoreboard.tables(whole), width=80)
    assert "+74.0% [+74.0, +74.0]" in narrow and "…" not in narrow, "nothing is cut on a narrow terminal"
    assert max(map(len, narrow.splitlines())) <= 80 and len(narrow.splitlines()) < len(shown.splitlines()) + 8


def text_of(tables, width=160) -> str:
    import io

    from rich.console import Console

    console = Console(width=width, file=io.StringIO())
    for one in tables:
        console.print(one)
    return console.file.getvalue()
