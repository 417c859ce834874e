"""What the policy reads: complete where it fits, trimmed in the stated order where it does not."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.prompt import PromptError, messages
from envs.records import Direction, Limits, State, Step, Task

SCRIPT = "model = Tree()\nmodel.fit(X, y)\n"
TASK = Task(
    "t", "Predict the petal width of an iris. " * 4, Path("e"), Path("p"), "train.py", frozenset(), "RMSE",
    Direction.MINIMIZE, "held_in", Limits(), 0.1, m_init=0.5,
)  # fmt: skip
STATE = State(
    "s", "t", "0", score=0.4, reference=0.4,
    history=tuple(Step(f"Thought: idea {i}\nAction: Undo", f"begin{i} {'log ' * 60}end{i}") for i in range(5)),
)  # fmt: skip


def count(text: str) -> int:
    return len(text.split())


def user(budget: int, state: State = STATE, files=None) -> str:
    return messages(TASK, state, files or {"train.py": SCRIPT}, count, budget)[1]["content"]


def test_all_that_matters_is_told():
    text = user(1000, files={"train.py": SCRIPT, "notes.txt": "secret"})
    assert TASK.problem in text and SCRIPT in text and "RMSE (lower is better). Now 0.4, at the start 0.5." in text
    assert "idea 1" not in text  # only the last steps
    assert all(f"Tried: idea {i}\nResult: begin{i}" in text for i in (2, 3, 4))
    assert "Other files: notes.txt" in text and "secret" not in text


def test_where_it_started_is_told_once_it_stands_elsewhere():
    at_start = replace(STATE, score=0.5, reference=0.5)
    assert "Now 0.5.\n" in user(1000, at_start) and "at the start" not in user(1000, at_start)
    assert "Not measured yet, at the start 0.5." in user(1000, replace(STATE, score=None, reference=None))


def test_a_broken_script_is_said_to_be_broken():
    assert "Now the script fails, before it was 0.4" in user(1000, replace(STATE, score=None))


def test_what_gives_way_first():
    """The tighter the budget, the more is gone; a log loses its middle."""
    marks = ["idea 2", "idea 3", "log " * 60, TASK.problem, "end4"]
    tightest = {}
    for budget in range(count(user(1000)) + 12, 54, -1):
        text = user(budget)
        assert SCRIPT in text and ("begin4" in text) == ("end4" in text)
        tightest |= {mark: budget for mark in marks if mark in text}
    assert sorted(tightest, key=tightest.get, reverse=True) == marks and len(set(tightest.values())) == len(marks)


@given(st.integers(0, 400))
def test_the_budget_is_kept_or_refused(budget):
    try:
        found = messages(TASK, STATE, {"train.py": SCRIPT}, count, budget)
    except PromptError as error:
        assert "train.py" in str(error) and budget < 80
    else:
        assert sum(count(message["content"]) for message in found) <= budget and SCRIPT in found[1]["content"]


def test_a_script_over_the_budget_is_an_error():
    with pytest.raises(PromptError, match="task t: its script and the instructions take"):
        user(500, files={"train.py": "x = 1\n" * 1000})
