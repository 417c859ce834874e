"""The built-in expert: proposes improvements of a script, written as the policy would write them.

It reads the script's syntax tree and applies an operator of `actors.expert.operators`: the ideas that it was given
first, then others that it draws. It needs no teacher model. Invariants: pure, and the same for the same random
generator; in a state whose last run failed it goes on from the last version that ran, or takes the edit back, and
never builds on the failure.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from actors.expert import edits, estimators, operators
from actors.expert import ideas as idea_pool
from actors.expert.operators import Change, Idea
from actors.expert.script import Script, Unreadable
from actors.policy.endpoint import Reply
from envs.records import State, Task

MAX_CHARACTERS = 380
"""Of an action where nothing else is said: about 120 tokens."""
TRIES = 20
UNDO_RATE = 0.25
"""How often an edit that broke the script or made the score worse is taken back."""
READ_RATE = 0.05
"""How often a script that fails is read before it is repaired."""
LONG = 3
"""Actions of a trajectory from which on its last one may be a Final Answer: of fewer, each is needed."""


class Expert(Protocol):
    """Whoever proposes actions in a trajectory."""

    name: str

    def candidates(self, task: Task, least: int) -> list[Idea]:
        """Ideas for the task's unchanged script, at least so many if there are."""

    def propose(
        self, task: Task, state: State, files: dict[str, str], working: str | None, ideas: Sequence[Idea],
        rng: random.Random,
    ) -> Reply:  # fmt: skip
        """The next action; arguments as for the function `propose`."""


class BuiltinExpert:
    """An `Expert` made of `propose` below, with the actions of whole trajectories that edit nothing."""

    name = "builtin"

    def __init__(self, mistakes: float, fits: Callable[[str], bool], steps: int = 0):
        """steps: actions of a trajectory, where it is to end with a Final Answer if the last script is the best."""
        self._mistakes, self._fits, self._steps = mistakes, fits, steps

    def candidates(self, task: Task, least: int) -> list[Idea]:
        return idea_pool.candidates(task, least)

    def propose(
        self, task: Task, state: State, files: dict[str, str], working: str | None, ideas: Sequence[Idea],
        rng: random.Random,
    ) -> Reply:  # fmt: skip
        if len(state.history) + 1 == self._steps >= LONG and _best_and_better(task, state):
            return Reply(edits.final_answer(task, "nothing that was tried is better than this"))
        if state.score is None and state.history and rng.random() < READ_RATE:
            return Reply(edits.inspect(task, "see why the script fails"))
        return Reply(propose(task, state, files, rng, self._mistakes, ideas, working, self._fits))


def propose(
    task: Task,
    state: State,
    files: Mapping[str, str],
    rng: random.Random,
    mistakes: float,
    ideas: Sequence[Idea] = (),
    working: str | None = None,
    fits: Callable[[str], bool] = lambda text: len(text) <= MAX_CHARACTERS,
) -> str:
    """Text of the expert's next action.

    mistakes: probability of an edit that is broken on purpose, so that error states come about.
    ideas: what to try in this trajectory, one a step.
    working: the script as it last ran, where that is not the present one.
    fits: whether the policy could write a text as long as this.
    """
    present, failed = files[task.script], state.score is None and bool(state.history)
    try:
        script = Script(working if failed and working is not None else present, task)
    except Unreadable:
        return _without_edit(task, state)
    if (failed or _worse(task, state)) and rng.random() < UNDO_RATE:
        return _without_edit(task, state)
    planned = ideas[len(state.history) :][:1]
    for _ in range(TRIES):
        change = _change(script, planned, failed, rng)
        planned = ()
        if change and (action := _written(task, change, present, failed, fits)):
            return broken(action, rng) if rng.random() < mistakes else action
    return _without_edit(task, state)


def last_that_ran(state: State) -> str | None:
    """The snapshot of the newest version of the script that ran, if that is an earlier one."""
    if state.score is not None:
        return None
    return next((snapshot for snapshot, score in reversed(state.undo) if score is not None), None)


def broken(action: str, rng: random.Random) -> str:
    """The same action with one of the mistakes that people make."""
    start, search, rest = action.partition("SEARCH\n")
    old, marker, new = rest.partition("=======\n")
    head = start + search + old
    mistaken = [
        start + search + re.sub(r"\((?=[^)])", "(verbose=0, ", old, count=1) + marker + new,  # not in the file
        head + marker + re.sub(r"from sklearn[.\w]* import", "from sklearn.models import", new, count=1),
        head + marker + re.sub(r"\)\n(?=>>>)", "\n", new, count=1),  # a parenthesis is missing
        head + marker + re.sub(r"(= \w+\()(?=.*\n>>>)", r"\1strength=2, ", new, count=1),  # no such setting
        re.sub(r"^Action: .*", "Action: Change", action, count=1, flags=re.MULTILINE),  # no such action
    ]
    return rng.choice([text for text in mistaken if text != action])


def _change(script: Script, planned: Sequence[Idea], failed: bool, rng: random.Random) -> Change | None:
    """What to make of the script: the planned idea, or another."""
    if planned:
        return operators.change(planned[0], script, rng)
    if failed and script.target:
        return _repair(script, rng)
    return operators.any_change(script, rng)


def _repair(script: Script, rng: random.Random) -> Change:
    """The present model with an import it lacked, or another model."""
    model = script.target.model
    used = set(re.findall(r"\b([A-Za-z]\w*)\(", model.expression))
    missing = {name: estimators.known_import(name) for name in sorted(used - script.imported)}
    if missing and all(missing.values()):
        thought = f"the same with its import of {', '.join(missing)}"
        whole = estimators.Model(thought, (*model.imports, *dict.fromkeys(missing.values())), model.expression)
        return operators.to_model(script, whole, "repair")
    other = operators.random_model(script, rng, scaled=0.3)
    thought = f"{other.thought} since the script fails"
    return operators.to_model(script, estimators.Model(thought, other.imports, other.expression), "model")


def _written(task: Task, change: Change, present: str, failed: bool, fits: Callable[[str], bool]) -> str | None:
    """The change as an action; None where that is too long, or there is nothing to change."""
    for text in (change.text, change.short):
        if text is None or text == present:
            continue
        if fits(action := edits.change(task, change.thought, present, text)):
            return action
        if failed:  # what broke the script may be an import: it has to go
            return None
    return None


def _without_edit(task: Task, state: State) -> str:
    if state.undo:
        return edits.undo(task, "the last edit did not help, take it back")
    return edits.inspect(task, "read the script again")


def _best_and_better(task: Task, state: State) -> bool:
    """Whether the present script is the best so far, and better than the unchanged one."""
    if None in (state.score, state.best, task.m_init):
        return False
    sign = task.direction.sign
    return sign * (state.score - state.best) >= 0 and sign * (state.score - task.m_init) > 0


def _worse(task: Task, state: State) -> bool:
    before = state.undo[-1][1] if state.undo else None
    return None not in (before, state.score) and task.direction.sign * (state.score - before) < 0
