"""What the policy reads: complete where it fits, trimmed in the stated order where it does not."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.prompt import BRIEF, MIN_LINES, Extent, PromptError, messages
from envs.records import Direction, Limits, State, Step, Task

SCRIPT = "model = Tree()\nmodel.fit(X, y)\n"
PROBLEM = f"Predict the petal width of an iris. {'Petals are leaves. ' * 40}Submit id and width."
TASK = Task(
    "t", PROBLEM, Path("e"), Path("p"), "train.py", frozenset(), "RMSE", Direction.MINIMIZE, "held_in", Limits(), 0.1,
    m_init=0.5,
)  # fmt: skip
STATE = State(
    "s", "t", "0", score=0.4, reference=0.4,
    history=tuple(Step(f"Thought: idea {i}\nAction: Undo", f"begin{i} {'log ' * 60}end{i}") for i in range(5)),
)  # fmt: skip


def count(text: str) -> int:
    return len(text.split())


LONG = "".join(f"x{number} = {number}\n" for number in range(1, 401))


def user(budget: int, state: State = STATE, files=None, task: Task = TASK, extent: Extent = BRIEF) -> str:
    return messages(task, state, files or {"train.py": SCRIPT}, count, budget, extent)[1]["content"]


def test_commands_are_told_only_where_the_task_allows_them():
    assert "Shell" not in user(10_000) + user(10_000, extent=Extent(whole=True))
    for extent in (BRIEF, Extent(whole=True)):
        assert user(10_000, task=replace(TASK, shell=True), extent=extent).endswith("stay changed.")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    (tmp_path / "task_descriptor.txt").write_text(
        f"{TASK.problem}\n{'Columns are numbers. ' * 30}\nThe end: id, width."
    )
    (tmp_path / "train.csv").write_text("id,petal_length,width\n1,1.5,0.2\n2,4.5,\n")
    (tmp_path / "train.py").write_text(SCRIPT)
    return replace(TASK, env_dir=tmp_path)


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


def test_a_script_that_was_not_run_since_it_was_changed_is_said_to_be_so():
    assert "Not run since it was changed, before it was 0.4" in user(1000, replace(STATE, score=None, unrun=2))


def test_files_that_may_be_changed_are_named_and_all_actions_explained_where_they_are_told_whole():
    task = replace(TASK, editable=frozenset({"lib/model.py", "task_descriptor.txt"}))
    assert "Other files: lib/model.py\n" in user(1000, task=task) and "Run: no" not in user(1000, task=task)
    assert all(name in user(1000, task=task, extent=Extent(whole=True)) for name in ("Run: no", "Lines:", "Undo"))


def test_what_gives_way_first(task):
    """The tighter the budget, the more is gone; logs and problems lose their middle, and no problem its end."""
    marks = [
        "idea 2",
        "idea 3",
        "petal_length: number",
        "log " * 60,
        "Columns are numbers. " * 30,
        TASK.problem,
        "end4",
    ]
    extent, tightest = Extent(descriptor=5000, preview=1000), {}
    for budget in range(count(user(2000, task=task, extent=extent)) + 12, 120, -1):
        text = user(budget, task=task, extent=extent)
        assert SCRIPT in text and ("begin4" in text) == ("end4" in text) and "Submit id and width." in text
        assert ("The end: id, width." in text) or "task_descriptor.txt" not in text
        tightest |= {mark: budget for mark in marks if mark in text}
    assert sorted(tightest, key=tightest.get, reverse=True) == marks and len(set(tightest.values())) == len(marks)


@given(st.integers(0, 400))
def test_the_budget_is_kept_or_refused(budget):
    try:
        found = messages(TASK, STATE, {"train.py": SCRIPT}, count, budget)
    except PromptError as error:
        assert "train.py" in str(error) and budget < 110
    else:
        assert sum(count(message["content"]) for message in found) <= budget and SCRIPT in found[1]["content"]


def test_a_long_script_is_shown_in_part_with_the_numbers_of_its_lines():
    text = user(400, files={"train.py": LONG})
    shown = [int(line.partition(":")[0]) for line in text.split("\n") if line.partition(":")[0].isdecimal()]
    assert shown == sorted(shown) and {1, 2, 399, 400} <= set(shown) and MIN_LINES < len(shown) < 400
    assert all(f"\n{number}: x{number} = {number}\n" in text for number in shown)
    assert f"train.py, {len(shown)} of its 400 lines" in text and text.count("\n…\n") == 1
    assert f"```\n{LONG}```" in user(5000, files={"train.py": LONG})


def test_the_lines_around_an_error_are_shown():
    failed = Step(
        "Thought: try\nAction: Undo", 'File "/usr/lib/x.py", line 9\n  File "/workspace/train.py", line 203, in f'
    )
    text = user(300, replace(STATE, history=(failed,)), files={"train.py": LONG})
    assert "\n203: x203 = 203\n" in text and "\n202:" in text and "\n1: x1" in text and "\n400: x400" in text


def test_long_lines_are_cut_where_the_script_does_not_fit():
    text = messages(TASK, STATE, {"train.py": f"x = 1\ny = {'z' * 5000}\n"}, len, 2500)[1]["content"]
    assert "1: x = 1\n2: y = zzz" in text and "z" * 100 in text and "z" * 200 not in text


def test_a_few_lines_of_a_script_must_fit():
    with pytest.raises(PromptError, match="task t: its script, or 20 lines of it, and the instructions take"):
        user(120, files={"train.py": LONG})


def test_a_history_is_as_long_as_asked_and_shown_as_it_was_written():
    assert "idea 3" not in user(2000, extent=Extent(history=1)) and "idea 4" in user(2000, extent=Extent(history=1))
    assert "Tried" not in user(2000, extent=Extent(history=0))
    text = user(2000, extent=Extent(history=100, whole=True))
    assert all(f"You wrote:\nThought: idea {i}\nAction: Undo\nResult: begin{i}" in text for i in range(5))


def test_files_are_previewed_and_described(task):
    text = user(2000, task=task, extent=Extent(descriptor=5000, preview=1000))
    assert "train.csv (39 B, 2 rows, 3 columns)\n  id: integer, e.g. 1, 2\n" in text
    assert "  width: number, 50 % missing, e.g. 0.2\n" in text and "  train.py" not in text
    assert text.count(TASK.problem) == 1 and "Columns are numbers. " * 30 in text
    assert "train.csv" not in user(2000, task=task) and "task_descriptor" not in user(2000, task=task)


def test_a_description_that_is_a_link_to_the_answers_is_not_read(task, tmp_path_factory):
    answers = tmp_path_factory.mktemp("private") / "answers.csv"
    answers.write_text("id,width\n1,secret\n")
    for name in ("task_descriptor.txt", "more.csv"):
        (task.env_dir / name).unlink(missing_ok=True)
        (task.env_dir / name).symlink_to(answers)
    text = user(2000, task=task, extent=Extent(descriptor=5000, preview=1000))
    assert "secret" not in text and "more.csv" not in text and "train.csv" in text
