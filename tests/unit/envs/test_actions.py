"""Parsing what the policy writes, and applying it; nothing but an exact action may have an effect."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.actions import Edit, Execute, FinalAnswer, Inspect, InvalidAction, Undo, Write, apply, inspect, parse
from envs.records import Direction, Limits, Task

SCRIPT = "import a\nmodel = Tree(depth=1)\nmodel.fit(X, y)\nprint(1)\nprint(1)\n"
FILES = {"train.py": SCRIPT}
TASK = Task(
    "t", "problem", Path("missing"), Path("missing"), "train.py", frozenset({"train.csv", "data/x.csv"}), "accuracy",
    Direction.MAXIMIZE, "held_in", Limits(), 1.0,
)  # fmt: skip


def edit(search: str, replacement: str, head: str = "Thought: better\nAction: Edit\n") -> str:
    return f"{head}<<<<<<< SEARCH\n{search}=======\n{replacement}>>>>>>> REPLACE\n"


def run(text: str) -> str:
    (new,) = apply(parse(text, TASK), FILES, TASK).values()
    return new


def test_an_edit_replaces_whole_lines():
    assert run(edit("model = Tree(depth=1)\n", "b\nmodel = Tree(2)\n")) == SCRIPT.replace(
        "Tree(depth=1)", "Tree(2)"
    ).replace("model =", "b\nmodel =")
    assert run(edit("import a\n", "")) == SCRIPT.removeprefix("import a\n")


def test_blocks_apply_in_order():
    text = edit("import a\n", "import b\n") + "\n" + edit("import b\n", "import c\n", head="")
    assert run(text).startswith("import c\n")


def test_harmless_blanks_are_accepted():
    text = edit("import a  \n", "import b\n", head="\n  Action:  Edit \nFile:  ./train.py\n\n").replace("\n", "\r\n")
    assert run(text).startswith("import b\nmodel")


def test_write_makes_or_replaces_a_file():
    text = "Action: Write\nFile: lib/features.py\n```python\nx = 1\nAction: Undo\n```\n"
    assert apply(parse(text, TASK), FILES, TASK) == {"lib/features.py": "x = 1\nAction: Undo\n"}


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("Thought: run it\nAction: Execute", Execute()),
        ("Action: Undo\n", Undo()),
        ("Action: Final Answer\n", FinalAnswer()),
        ("Action: Inspect\nFile: train.csv\nLines: 2-9999", Inspect("train.csv", 2, 61)),
        ("Action: Inspect\n", Inspect("train.py", 1, 60)),
    ],
)
def test_other_actions(text, action):
    assert parse(text, TASK) == action


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I would use a forest.", "write one line `Action: NAME`"),
        ("Action: Undo\nAction: Undo", "there are 2"),
        ("Action: Fly", "there is no action 'fly'"),
        ("Action: Edit\nmodel = 2", "comes File:, Lines: or a block"),
        ("Action: Edit\n", "Edit needs"),
        (edit("import a\n", "import b\n") + "so it will be better", "nothing else"),
        (edit("import a\n", "import b\n") + "<<<<<<< SEARCH\nprint", "nothing else"),
        ("Action: Write\n```\nx = 1", "Write needs"),
        ("Action: Execute\n```\nrm\n```", "takes no block"),
        (edit("model = Tree()\n", "x\n"), "the SEARCH lines are not in train.py"),
        (edit("Tree(depth=1)\n", "x\n"), "the SEARCH lines are not in train.py"),
        (edit("print(1)\n", "x\n"), "occur 2 times"),
        (edit("\n", "x\n"), "SEARCH lines are empty"),
        (edit("import a\n", "import a\n"), "leaves train.py as it is"),
        (edit("import a\n", "x" * 50_000 + "\n"), "at most 40000"),
        (edit("import a\n", "\ud800\n"), "not be valid text"),
        (edit("a\n", "b\n", "Action: Edit\nFile: other.py\n"), "use Write to make it"),
        ("Action: Inspect\nLines: 9-2", "Lines must be like 10-40"),
    ],
)
def test_a_wrong_action_is_told_what_to_do(text, reason):
    with pytest.raises(InvalidAction, match=reason):
        run(text)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../train.py", "a/../../b", "~/x", ".bashrc", "a\\b", "x" * 200, "a/b/c/d/e", "$HOME/x"]
)
def test_paths_stay_in_the_workspace(path):
    with pytest.raises(InvalidAction, match="no path in the working folder"):
        parse(f"Action: Write\nFile: {path}\n```\nx\n```", TASK)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("train.csv", "read-only"),
        ("data/x.csv", "read-only"),
        ("data", "clashes"),
        ("train.csv/x", "clashes"),
        ("train.py/x", "clashes"),
        ("submission.csv", "written by running"),
    ],
)
def test_data_and_submission_cannot_be_written(path, reason):
    with pytest.raises(InvalidAction, match=reason):
        apply(Write(path, "1"), FILES, TASK)


def test_a_state_has_a_bounded_number_of_files():
    files = FILES | {f"f{i}": "" for i in range(19)}
    with pytest.raises(InvalidAction, match="20 files already"):
        apply(Write("one_more", "1"), files, TASK)
    assert apply(Write("f0", "1"), files, TASK) == {"f0": "1"}


def test_inspect_shows_numbered_lines_of_scripts_and_data(tmp_path):
    (tmp_path / "train.csv").write_text("id,x\n" + "9" * 1000 + "\n")
    task = dataclasses.replace(TASK, env_dir=tmp_path)
    assert inspect(Inspect("train.py", 2, 3), FILES, task) == "2: model = Tree(depth=1)\n3: model.fit(X, y)"
    assert inspect(Inspect("train.csv", 2, 60), FILES, task) == "2: " + "9" * 160
    with pytest.raises(InvalidAction, match="there is no file nothing"):
        inspect(Inspect("nothing", 1, 2), FILES, task)
    with pytest.raises(InvalidAction, match="no lines 7-9"):
        inspect(Inspect("train.py", 7, 9), FILES, task)


PIECES = st.sampled_from(
    ["Action: Edit\n", "Action: Write\n", "File: train.py\n", "File: ../x\n", "<<<<<<< SEARCH\n", "=======\n", "```\n",
     ">>>>>>> REPLACE\n", "import a\n", "Thought: x\n"]
)  # fmt: skip


@given(st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=12).map("".join))
def test_any_text_is_an_action_or_is_refused(text):
    try:
        action = parse(text, TASK)
        changed = apply(action, FILES, TASK) if isinstance(action, Edit | Write) else {}
    except InvalidAction:
        return
    assert set(changed) <= {"train.py"} and changed != FILES
