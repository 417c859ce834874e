"""What of an expert's trajectories is imitated, which states it hands to RL, and that all of it can be read back."""

from __future__ import annotations

import math
import resource
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.expert.trajectory import Ending, Move, Trajectory, ending
from envs.records import Direction, Durations, Limits, Outcome, State, Step, StepResult, Task
from learner.algorithm import batching
from learner.algorithm.batching import Example
from learner.recipe import trajectories
from learner.recipe.selection import Choice, select, worth_imitating
from learner.recipe.trajectories import TrajectoryError
from learner.recipe.warmstart import balanced, states

TASK = Task(
    "t", "", Path(), Path(), "train.py", frozenset(), "rmse", Direction.MINIMIZE, "held_in", Limits(), 0.0, m_init=1.0
)
START = State("s0", "t", "snap0", score=1.0, reference=1.0)
EDITED, ERROR = Outcome.EDITED, Outcome.SCRIPT_ERROR


def trajectory(*steps: tuple[str, Outcome, float | None], number: int = 0, failure: str = "") -> Trajectory:
    moves, state = [], START
    for text, outcome, after in steps:
        following = replace(
            state,
            id=state.id + text,
            snapshot=text,
            history=(*state.history, Step(text, "seen")),
            score=after,
            reference=after if after is not None else state.reference,
            undo=(*state.undo, (state.snapshot, state.score)),
        )
        before = state.reference
        result = StepResult("edit", outcome, before, after, "seen", "log", Durations(execute=0.5), following)
        moves.append(Move(state, text, result))
        state = following
    return Trajectory(
        "t", number, "builtin", ("an idea",), tuple(moves), ending(tuple(moves), TASK, failure), failure
    )  # fmt: skip


PATH = trajectory(("better", EDITED, 0.5), ("worse", EDITED, 0.9), ("broken", ERROR, None), ("fix", EDITED, 0.95))


def test_gains_and_repairs_are_imitated_errors_and_losses_are_not():
    chosen = worth_imitating([PATH, PATH], {"t": TASK})
    assert [(choice.text, choice.gain) for choice in chosen] == [("better", 0.5), ("fix", math.inf)]


def episode(*steps: tuple) -> Trajectory:
    """Of (text, kind, outcome, score after, changes of the state that it leads to)."""
    moves, state = [], START
    for text, kind, outcome, score, changes in steps:
        reached = replace(state, id=f"{state.id}{text}", history=(*state.history, Step(text, "seen")), **changes)
        result = StepResult(kind, outcome, state.reference, score, "seen", "", Durations(), reached)
        moves.append(Move(state, text, result))
        state = reached
    return Trajectory("t", 0, "llm", (), tuple(moves), Ending.IMPROVED)


def edit(text: str, score: float | None, before: dict, run: bool = True) -> tuple:
    """An edit of a state whose edits so far are `before`."""
    undo = (*before["undo"], (before["snapshot"], before["score"]))
    kept = {"snapshot": text, "score": score, "undo": undo, "unrun": 0 if run else 1}
    if not run:
        return text, "write", Outcome.NEUTRAL, None, kept
    if score is None:
        return text, "edit", ERROR, None, kept
    return text, "edit", EDITED, score, {**kept, "reference": score}


def test_every_kind_of_action_is_imitated_where_it_was_useful():
    start = {"snapshot": "snap0", "score": 1.0, "undo": ()}
    read, known = ("read", "inspect", Outcome.NEUTRAL, None, {}), ("run it again", "execute", Outcome.NEUTRAL, 1.0, {})
    good = edit("good", 0.6, start)
    ended = ("done", "final answer", Outcome.NEUTRAL, None, {})
    taken_back = ("take it back", "undo", Outcome.NEUTRAL, None, {**good[4]})
    worse = edit("worse", 0.8, good[4])
    written = edit("write it", None, start, run=False)
    run = ("run it", "execute", EDITED, 0.5, {"score": 0.5, "unrun": 0})

    def imitated(*steps: tuple) -> list[tuple[str, float]]:
        chosen = worth_imitating([episode(*steps)], {"t": TASK})
        assert [choice.kind for choice in chosen] == [
            kind for text, kind, *_ in steps if text in {choice.text for choice in chosen}
        ]
        assert all(choice.edits == (choice.kind in ("edit", "write")) for choice in chosen)
        return [(choice.text, round(choice.gain, 6)) for choice in chosen]

    assert imitated(read, good, ended) == [("read", 0.4), ("good", 0.4), ("done", 0.4)]
    assert imitated(good, worse, taken_back, ended) == [("good", 0.4), ("take it back", 0.2), ("done", 0.4)]
    assert imitated(good, worse, ended) == [("good", 0.4)], "the best had been left"
    assert imitated(good, edit("break", None, good[4]), taken_back)[1] == ("take it back", math.inf)
    assert imitated(written, run) == [("write it", 0.5), ("run it", 0.5)]
    assert imitated(written, ("take it back", "undo", Outcome.NEUTRAL, None, {**start, "unrun": 0})) == []
    assert imitated(read, known, good) == [("good", 0.4)], "to run again what is known, and to read before it"
    assert imitated(read, edit("bad", 1.2, start), ended) == []
    assert imitated(ended) == [], "nothing was improved"


def selected(choices: list[Choice], best: float, most: int = 0, others: float = 0.0, seed: int = 0) -> list[str]:
    return [choice.text for choice in select(choices, best, most, others, seed)]


def test_the_largest_improvements_and_those_that_differ_most_are_selected():
    gains = {"ridge a": 0.4, "ridge b": 0.3, "a forest": 0.2, "small": 0.01, "repair it": math.inf}
    choices = [Choice(START, text, gain) for text, gain in gains.items()]
    assert selected(choices, 0.75) == ["ridge a", "ridge b", "a forest", "repair it"]
    repair = ["repair it"]  # is kept whatever the share is, and a part of an action counts as one
    assert selected(choices, 0.26) == ["ridge a", "ridge b", *repair]
    assert selected(choices, 0.01) == ["ridge a", *repair]
    for seed in range(5):
        few = set(selected(choices, 0.75, 3, seed=seed))
        assert len(few) == 3 and not {"ridge a", "ridge b"} <= few
    other = [replace(choice, state=replace(START, task_id="u")) for choice in choices]
    assert Counter(choice.state.task_id for choice in select([*choices, *other], 1.0, 2, 0, 0)) == {"t": 2, "u": 2}


def test_what_edits_nothing_is_a_share_of_the_examples_and_all_kinds_of_it_come_in_turn():
    edits = [Choice(START, f"edit {number}", 0.1) for number in range(6)]
    reads = [Choice(START, f"read {number}", 0.1 * number, "inspect", False) for number in range(9)]
    rest = [Choice(START, "back", math.inf, "undo", False), Choice(START, "done", 0.01, "final answer", False)]
    every = [*reads, *edits, *rest]
    assert set(selected(every, 1.0, others=0.4)) - {one.text for one in edits} == {"back", "done", "read 8", "read 7"}
    assert selected(every, 1.0, others=0.0) == [one.text for one in edits]
    assert selected(reads, 1.0, others=0.4) == [], "there is no edit that they would be a share beside"
    assert len(selected(every, 1.0, others=0.9)) == len(every)


def test_every_state_is_kept_with_its_kind():
    plateau = trajectory(("a", EDITED, 1.0), ("b", EDITED, 1.0), ("c", EDITED, 1.0))
    assert [s.kind for s in states([PATH], {"t": TASK})] == ["initial", "middle", "middle", "error", "plateau"]
    assert [s.kind for s in states([plateau], {"t": TASK})] == ["initial", "middle", "plateau", "plateau"]


def test_the_pool_has_each_state_once_and_all_kinds_of_every_task():
    paths = [trajectory((f"a{n}", EDITED, 1.1), (f"b{n}", EDITED, 1.2), (f"c{n}", ERROR, None)) for n in range(20)]
    other = [replace(s, task_id="u") for s in states(paths[:1], {"t": TASK})]
    found = [*states([*paths, *paths], {"t": TASK}), *other]
    pool = balanced(found, 12, seed=0)
    assert len({(s.task_id, s.snapshot) for s in pool}) == len(pool)
    assert Counter(s.task_id for s in pool) == {"t": 12, "u": 4}
    kinds = Counter(s.kind for s in pool if s.task_id == "t")
    assert kinds["initial"] == 1 and max(kinds.values()) - min(kinds["middle"], kinds["plateau"], kinds["error"]) <= 1
    assert pool == balanced(found, 12, seed=0) != balanced(found, 12, seed=1)


def test_trajectories_are_marked_by_how_they_ended():
    assert PATH.ending is Ending.IMPROVED
    assert trajectory(("broken", ERROR, None)).ending is Ending.FAILED
    assert trajectory(("same", EDITED, 1.0)).ending is Ending.LEVEL
    assert trajectory(("same", EDITED, 1.0), failure="no endpoint").ending is Ending.CUT


def test_trajectories_can_be_read_back(tmp_path):
    failed = trajectory(("broken", ERROR, None), number=1, failure="the endpoint failed")
    first, *rest = PATH.moves
    unrun = replace(first.result, state=replace(first.result.state, best=0.5, unrun=2))
    known = replace(PATH, moves=(first._replace(result=unrun), *rest))
    for one in (PATH, failed):
        trajectories.append(tmp_path, one)
    with (tmp_path / trajectories.GROWING).open("a") as file:
        file.write('{"task_id": "t", "num')  # a crash
    assert trajectories.grown(tmp_path) == [PATH, failed]
    trajectories.append(tmp_path, replace(PATH, number=2))
    assert len(trajectories.grown(tmp_path)) == 3
    trajectories.save([known, failed], tmp_path)
    assert trajectories.read(tmp_path) == [known, failed]
    assert not (tmp_path / trajectories.GROWING).exists()
    (tmp_path / trajectories.PARQUET).write_bytes(b"no parquet")
    with pytest.raises(TrajectoryError, match=r"trajectories\.parquet cannot be read"):
        trajectories.read(tmp_path)


def test_a_disk_that_is_full_when_a_run_goes_on_costs_no_trajectory(tmp_path):
    trajectories.append(tmp_path, PATH)
    with (tmp_path / trajectories.GROWING).open("a") as file:
        file.write('{"task_id": "t", "num')
    _, most = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))  # nothing can be written
    try:
        assert trajectories.grown(tmp_path) == [PATH]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert trajectories.grown(tmp_path) == [PATH]


def test_no_example_is_both_trained_on_and_kept_back():
    examples = [Example(np.array([0]), np.array([n])) for n in range(40)]
    trained, kept_back = batching.split(examples, 0.1, seed=0)
    assert len(kept_back) == 4 and len(trained) == 36
    assert {int(e.response_ids[0]) for e in (*trained, *kept_back)} == set(range(40))
    assert len(batching.split(examples[:1], 0.5, seed=0)[0]) == 1
    assert batching.split([], 0.5, seed=0) == ([], [])
