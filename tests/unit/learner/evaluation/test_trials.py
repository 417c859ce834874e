"""The trials of an evaluation are those that the configuration asks for, the same for every agent."""

from __future__ import annotations

from actors.attempts import EPISODE, STEP
from envs.records import State
from learner.config.load import load
from learner.evaluation.trials import plan

STATES = {"a": [State("a0", "a", ""), State("a1", "a", "x")], "b": [State("b0", "b", "")]}


def test_every_state_and_every_task_is_tried_with_each_seed():
    cfg = load(["evaluation.seed=7", "evaluation.attempts=2", "evaluation.steps=3"])
    trials = plan(cfg, list(STATES), STATES)
    steps = [(trial.task_id, trial.state.id, trial.seed) for trial in trials if trial.setting == STEP]
    assert steps == [(task, state.id, seed) for task, of_task in STATES.items() for state in of_task for seed in (7, 8)]
    episodes = [(trial.task_id, trial.state, trial.seed) for trial in trials if trial.setting == EPISODE]
    assert episodes == [(task, None, seed) for task in STATES for seed in (7, 8)]
    assert {(trial.setting, trial.steps) for trial in trials} == {(STEP, 1), (EPISODE, 3)}


def test_without_steps_there_are_no_episodes():
    cfg = load(["evaluation.steps=0"])
    assert {trial.setting for trial in plan(cfg, list(STATES), STATES)} == {STEP}
