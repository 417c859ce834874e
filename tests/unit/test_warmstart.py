"""What the warm start imitates, and which states it hands to RL."""

from dataclasses import replace
from pathlib import Path

from envs.records import Direction, Durations, Limits, Outcome, State, Step, StepResult, Task
from learner.warmstart import states, worth_imitating

TASK = Task("t", "", Path(), Path(), "train.py", frozenset(), "rmse", Direction.MINIMIZE, "held_in", Limits(), 0.0)
START = State("s0", "t", "snap0", score=1.0, reference=1.0)


def step(state: State, text: str, outcome: Outcome, before: float | None, after: float | None):
    after_state = replace(
        state,
        id=state.id + text,
        snapshot=text,
        history=(*state.history, Step(text, "")),
        score=after,
        reference=after if after is not None else state.reference,
    )
    return (state, text, StepResult("edit", outcome, before, after, "", "", Durations(), after_state))


def trajectory(*steps):
    path, state = [], START
    for text, outcome, after in steps:
        path.append(step(state, text, outcome, state.reference, after))
        state = path[-1][2].state
    return path


EDITED, ERROR = Outcome.EDITED, Outcome.SCRIPT_ERROR
PATH = trajectory(("better", EDITED, 0.5), ("worse", EDITED, 0.9), ("broken", ERROR, None), ("fix", EDITED, 0.95))


def test_gains_and_repairs_are_imitated_errors_and_losses_are_not():
    assert [text for _, text in worth_imitating([PATH, PATH], {"t": TASK})] == ["better", "fix"]


def test_every_state_is_kept_with_its_kind():
    plateau = trajectory(("a", EDITED, 1.0), ("b", EDITED, 1.0), ("c", EDITED, 1.0))
    assert [s.kind for s in states([PATH, plateau], {"t": TASK})] == [
        "initial",
        "middle",
        "middle",
        "error",
        "initial",
        "middle",
        "plateau",
    ]
