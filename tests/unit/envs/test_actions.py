"""Parsing what the policy writes, and applying it; nothing but an exact action may have an effect."""

import contextlib
import dataclasses
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from envs import actions, research_actions
from envs.actions import (
    Edit,
    Execute,
    FinalAnswer,
    Inspect,
    InvalidAction,
    Several,
    Shell,
    Undo,
    Write,
    parse,
)
from envs.changes import apply, inspect
from envs.records import Direction, Fault, Limits, Task

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


SHELLED = dataclasses.replace(TASK, shell=True)


def test_commands_stand_in_a_fence_where_the_task_allows_them():
    assert parse("Action: Shell\n```bash\nls -l\n```\nDone.", SHELLED) == Shell("ls -l\n")
    assert parse("Thought: x\n**Action:** Shell\nRun: no\n```\na\n\nb\n```", SHELLED) == Shell("a\n\nb\n", run=False)
    assert parse(edit("import a\n", "import b\n"), SHELLED) == parse(edit("import a\n", "import b\n"), TASK)
    for text, task, fault in [
        ("Action: Shell\n```\nls\n```", TASK, Fault.UNKNOWN_ACTION),
        ("Action: Shell\nls", SHELLED, Fault.BAD_BLOCK),
        ("Action: Shell\n```\n\n```", SHELLED, Fault.BAD_BLOCK),
        ("Action: Shell\n```\nls\n```\n```\nrm x\n```", SHELLED, Fault.BAD_BLOCK),
        ("Action: Shell\n```\necho \0\n```", SHELLED, Fault.REFUSED),
        (f"Action: Shell\n```\n{'#' * actions.MAX_FILE_BYTES}\n```", SHELLED, Fault.REFUSED),
    ]:
        with pytest.raises(InvalidAction) as refused:
            parse(text, task)
        assert refused.value.fault is fault and ("Shell" in str(refused.value)) == (
            task is SHELLED and fault != "refused"
        )


def test_blocks_apply_in_order():
    text = edit("import a\n", "import b\n") + "\n" + edit("import b\n", "import c\n", head="")
    assert run(text).startswith("import c\n")


def test_harmless_blanks_are_accepted():
    text = edit("import a  \n", "import b\n", head="\n  Action:  Edit \nFile:  ./train.py\n\n").replace("\n", "\r\n")
    assert run(text).startswith("import b\nmodel")


BETTER, BARE_EDIT = edit("import a\n", "import b\n"), edit("import a\n", "import b\n", "")
FENCED = f"```python\n{BARE_EDIT}```\n"


@pytest.mark.parametrize(
    "text",
    [
        edit("import a\n", "import b\n", "**Thought:** better\n\n**Action:** Edit\n**File:** `train.py`\n\n"),
        edit("import a\n", "import b\n", "### Action: **Edit**\n"),
        f"Action: Edit\n{FENCED}",
        f"Action: Edit\nFile: train.py\n\nI change the import:\n\n{FENCED}\nThis should help.\n",
        BETTER + "\nWith this the script imports b: a better one.",
        f"```\n{BETTER}```",
        f"Sure!\n```text\nThought: as before\nAction: Edit\n{BARE_EDIT}```\n\n",
        f"It was:\n```python\nAction: x\nimport c\n```\nNow\nAction: Edit\nThought: better\n{FENCED}",
    ],
    ids=["bold", "heading", "fenced", "prose", "prose after", "all fenced", "all fenced after prose", "code before"],
)
def test_what_capable_models_put_around_an_edit_is_passed_over(text):
    assert run(text) == SCRIPT.replace("import a", "import b")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("  \n", Fault.EMPTY),
        ("A forest.", Fault.NO_ACTION),
        ("You could write:\n```\nAction: Undo\n```\nbut I do not.", Fault.NO_ACTION),
        ("<<<<<<< SEARCH\nAction: Undo\n", Fault.NO_ACTION),
        ("Action: Undo\nResult: undone\nAction: Execute", Fault.SEVERAL_ACTIONS),
        (f"Action: Edit\n{FENCED}\nAction: Execute\n", Fault.SEVERAL_ACTIONS),
        ("Action: Fly", Fault.UNKNOWN_ACTION),
        ("Action: Inspect\nLines: all", Fault.BAD_ARGUMENT),
        ("Action: Write\nFile: ../x\n```\n1\n```", Fault.BAD_ARGUMENT),
        ("Action: Write\n```\nx = 1\n```\nor\n```\nx = 2\n```\n", Fault.BAD_BLOCK),
        ('Action: Write\n```\n"""\n```\nan example\n```\n"""\n```\n', Fault.BAD_BLOCK),
        ("Action: Execute\n```\nrm\n```", Fault.BAD_BLOCK),
        (edit("import z\n", "\n"), Fault.NO_MATCH),
        (edit("print(1)\n", "\n"), Fault.AMBIGUOUS),
        (edit("import a\n", "import a\n"), Fault.UNCHANGED),
        (edit("a\n", "b\n", "Action: Edit\nFile: train.csv\n"), Fault.REFUSED),
    ],
)
def test_each_fault_has_its_name(text, fault):
    with pytest.raises(InvalidAction) as refused:
        run(text)
    assert refused.value.fault is fault


NESTED = "def main():\n    for x in y:\n        fit(x)\n\n        score(x)\n    end()\n"


@pytest.mark.parametrize(
    ("file", "search", "replacement", "after"),
    [
        (NESTED, "fit(x)\n\nscore(x)\n", "if x:\n    fit(x)\n\nscore(x)\n",
         "def main():\n    for x in y:\n        if x:\n            fit(x)\n\n        score(x)\n    end()\n"),
        (NESTED, "            end()\n", "            stop()\n            end()\n",
         "def main():\n    for x in y:\n        fit(x)\n\n        score(x)\n    stop()\n    end()\n"),
        (NESTED, "for x in y:\n    fit(x)\n", "for x in z:\n    fit(x)\n", NESTED.replace("y", "z")),
        (NESTED.replace("    ", "\t"), "    for x in y:\n        fit(x)\n", "    for x in z:\n        fit(x)\n",
         NESTED.replace("    ", "\t").replace("y", "z")),
        (NESTED.replace("    ", "\t"), "def main():\n", "def main():\n    begin()\n",
         NESTED.replace("    ", "\t").replace("main():\n", "main():\n\tbegin()\n")),
    ],
    ids=["left", "right", "block", "blanks for tabs", "new lines with blanks among tabs"],
)  # fmt: skip
def test_search_lines_match_up_to_a_common_indentation_which_is_put_back(file, search, replacement, after):
    action = parse(edit(search, replacement), TASK)
    assert apply(action, {"train.py": file}, TASK) == {"train.py": after}


@pytest.mark.parametrize(
    ("search", "replacement", "fault"),
    [
        ("for x in y:\nfit(x)\n", "pass\n", Fault.NO_MATCH),
        ("        end()\n", "stop()\n", Fault.NO_MATCH),
        ("x = 1\n", "x = 2\n", Fault.AMBIGUOUS),
    ],
    ids=["another shape", "no room", "twice"],
)
def test_search_lines_of_another_shape_match_nothing(search, replacement, fault):
    with pytest.raises(InvalidAction) as refused:
        file = f"{NESTED}if a:\n    x = 1\nelse:\n  x = 1\n"
        apply(parse(edit(search, replacement), TASK), {"train.py": file}, TASK)
    assert refused.value.fault is fault


def test_lines_that_match_as_they_are_go_before_those_that_do_when_shifted():
    file = "if a:\n    x = 1\nx = 1\n"
    changed = apply(parse(edit("x = 1\n", "x = 2\n"), TASK), {"train.py": file}, TASK)
    assert changed == {"train.py": "if a:\n    x = 1\nx = 2\n"}


def test_write_makes_or_replaces_a_file():
    text = "Action: Write\nFile: lib/features.py\n```python\nx = 1\nAction: Undo\n```\n"
    assert apply(parse(text, TASK), FILES, TASK) == {"lib/features.py": "x = 1\nAction: Undo\n"}


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("Thought: run it\nAction: Execute", Execute()),
        ("Action: Execute\nFile: look.py\n", Execute("look.py")),
        ("Action: Write\nRun: No\n```\nx\n```\n", Write("train.py", "x\n", run=False)),
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
        ("Action: Edit\nmodel = 2", "Edit needs whole blocks"),
        ("Action: Undo\nObservation: undone", "comes File:, Lines:, Run: or a block"),
        ("Action: Inspect\nLines 3-4", "comes File:, Lines:, Run: or a block"),
        ("Action: Edit\n", "Edit needs"),
        (edit("import a\n", "import b\n") + "<<<<<<< SEARCH\nprint", "Edit needs whole blocks"),
        (edit("import a\n", "import b\n") + "=======\n", "Edit needs whole blocks"),
        ("Action: Write\n```\nx = 1", "Write needs"),
        ("Action: Execute\n```\nrm\n```", "takes no block"),
        (edit("model = Tree()\n", "x\n"), "the SEARCH lines are not in train.py"),
        (edit("Tree(depth=1)\n", "x\n"), "the SEARCH lines are not in train.py"),
        (edit("print(1)\n", "x\n"), "occur more than once"),
        (edit("  import a\n", "x\n"), "the SEARCH lines are not in train.py"),
        (edit("\timport a\nmodel = Tree(depth=1)\n", "x\n"), "the SEARCH lines are not in train.py"),
        (
            edit("import a\n", "print(1)\n") + edit("model = Tree(depth=1)\nprint(1)\n", "x\n", ""),
            "are not in train.py",
        ),
        (edit("import a\n", "b = 1\n") + edit("import a\n", "c = 1\n", ""), "the SEARCH lines are not in train.py"),
        (edit("import a\n", "print(2)\nprint(2)\n") + edit("print(2)\n", "c = 1\n", ""), "occur more than once"),
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


TWO = edit("import a\n", "import lib\n") + "\n**File:** `lib/new.py`\n\n" + edit("", "x = 1\n", "")


def test_one_action_changes_several_files_in_the_order_in_which_they_stand():
    text = TWO + "File: train.py\n" + edit("import lib\n", "import lib, b\n", "")
    assert apply(parse(text, TASK), FILES, TASK) == {
        "train.py": SCRIPT.replace("import a", "import lib, b"), "lib/new.py": "x = 1\n",
    }  # fmt: skip
    text = "Action: Write\nRun: no\nFile: a.py\n```python\nx = 1\n```\nand\nFile: b.py\n```\nFile: c.py\n```\n"
    several = parse(text, TASK)
    assert several == Several("write", (Write("a.py", "x = 1\n"), Write("b.py", "File: c.py\n")), run=False)
    assert apply(several, FILES, TASK) == {"a.py": "x = 1\n", "b.py": "File: c.py\n"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (TWO + "File: train.csv\n" + edit("1\n", "2\n", ""), Fault.REFUSED),
        (TWO + edit("import z\n", "\n", ""), Fault.REFUSED),
        (TWO + "File: ../x.py\n" + edit("1\n", "2\n", ""), Fault.BAD_ARGUMENT),
        (TWO + "File: other.py\n", Fault.BAD_BLOCK),
        ("Action: Write\n```\nx\n```\nFile: train.py\n```\ny\n```\n", Fault.BAD_BLOCK),
        ("Action: Write\nFile: a\n```\nx\n```\nFile: a/b\n```\ny\n```\n", Fault.REFUSED),
        ("Action: Write\nRun: maybe\n```\nx\n```\n", Fault.BAD_ARGUMENT),
    ],
    ids=["read-only", "not there yet", "outside", "no block", "twice", "clash", "run"],
)
def test_of_several_files_all_are_changed_or_none(text, fault):
    with pytest.raises(InvalidAction) as refused:
        apply(parse(text, TASK), FILES, TASK)
    assert refused.value.fault is fault


def test_files_of_the_task_that_nothing_protects_are_edited_where_they_are_text(tmp_path):
    (tmp_path / "env" / "lib").mkdir(parents=True)
    (tmp_path / "env/lib/model.py").write_text("depth = 1\n")
    (tmp_path / "env/large.txt").write_text("x\n" * 30_000)
    (tmp_path / "env/image.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "secret.py").write_text("answer = 1\n")
    (tmp_path / "env/link.py").symlink_to("../secret.py")
    names = frozenset({"lib/model.py", "large.txt", "image.txt", "link.py"})
    task = dataclasses.replace(TASK, env_dir=tmp_path / "env", editable=names)

    def changed(path: str, search: str) -> dict[str, str]:
        return apply(Edit(path, ((search, "depth = 2\n"),)), FILES, task)

    assert changed("lib/model.py", "depth = 1\n") == {"lib/model.py": "depth = 2\n"}
    assert apply(Write("large.txt", "x\n"), FILES, task) == {"large.txt": "x\n"}
    for path, search, reason in (
        ("lib/model.py", "depth = 3\n", "are not in lib/model.py"), ("large.txt", "x\n", "at most 40,000"),
        ("image.txt", "x\n", "not a text file"), ("link.py", "answer = 1\n", "there is no file link.py"),
    ):  # fmt: skip
        with pytest.raises(InvalidAction, match=reason):
            changed(path, search)
    for clashing in ("lib", "lib/model.py/x", "link.py/x"):
        with pytest.raises(InvalidAction, match="clashes"):
            apply(Write(clashing, "x"), FILES, task)
    with pytest.raises(InvalidAction, match="there is no file link.py"):
        inspect(Inspect("link.py", 1, 2), FILES, task)


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


@pytest.mark.parametrize("letter", ["a", "é", "€", "😀"])
def test_a_file_has_a_bounded_number_of_bytes_whatever_its_letters(letter):
    most = letter * (actions.MAX_FILE_BYTES // len(letter.encode()))
    assert apply(Write("train.py", most), FILES, TASK) == {"train.py": most}
    with pytest.raises(InvalidAction, match=f"at most {actions.MAX_FILE_BYTES} are allowed"):
        apply(Write("train.py", most + letter), FILES, TASK)


def test_inspect_shows_numbered_lines_of_scripts_and_data(tmp_path):
    (tmp_path / "train.csv").write_text("id,x\n" + "9" * 1000 + "\n")
    task = dataclasses.replace(TASK, env_dir=tmp_path)
    assert inspect(Inspect("train.py", 2, 3), FILES, task) == "2: model = Tree(depth=1)\n3: model.fit(X, y)"
    assert inspect(Inspect("train.csv", 2, 60), FILES, task) == "2: " + "9" * 160
    with pytest.raises(InvalidAction, match="there is no file nothing"):
        inspect(Inspect("nothing", 1, 2), FILES, task)
    with pytest.raises(InvalidAction, match="no lines 7-9"):
        inspect(Inspect("train.py", 7, 9), FILES, task)


def test_a_block_may_remove_what_made_the_next_ones_lines_ambiguous():
    """Whether lines occur once is judged on the script as the blocks before it leave it."""
    text = edit("model.fit(X, y)\nprint(1)\n", "") + edit("print(1)\n", "print(2)\n", "")
    assert run(text) == "import a\nmodel = Tree(depth=1)\nprint(2)\n"


def test_overlapping_places_are_two():
    with pytest.raises(InvalidAction, match="more than once"):
        apply(Edit("train.py", (("x\nx\n", "y\n"),)), {"train.py": "x\nx\nx\n"}, TASK)


def test_inspect_reads_a_bounded_part_of_a_file_of_any_size(tmp_path):
    """A line of 300 MiB, lines after it, and what is beyond the bound."""
    with (tmp_path / "long.csv").open("wb") as file:
        file.write(b"id,x\n" + "é".encode() * 200 + b"9" * (1 << 20) + b"\r\nthird\n")
        file.truncate(300 << 20)  # zeros, in no room
    task = dataclasses.replace(TASK, env_dir=tmp_path)
    tracemalloc.start()
    try:
        shown = inspect(Inspect("long.csv", 1, 60), FILES, task).split("\n")
        with pytest.raises(InvalidAction, match="no lines 5-9"):
            inspect(Inspect("long.csv", 5, 9), FILES, task)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert shown[:3] == ["1: id,x", "2: " + "é" * 160, "3: third"] and len(shown) == 4 and len(shown[3]) <= 163
    assert peak < 4 << 20


PATHS = st.sampled_from(["train.py", "notes.txt", "lib/features.py", "a/b/c/d.csv"])
BARE = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=12)
LINES = st.lists(st.one_of(BARE, st.sampled_from(["", "    x = 1", "Action: Undo", "File: x"])), max_size=5)
TEXT = LINES.map(lambda lines: "".join(f"{line}\n" for line in lines))
MARKS = ("<" * 5, "=" * 5, ">" * 5, "```")
CONTENT = TEXT.filter(lambda text: not any(line.startswith(MARKS) for line in text.split("\n")))
ACTIONS = st.one_of(
    st.builds(Edit, PATHS, st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3).map(tuple)),
    st.builds(Write, PATHS, CONTENT),
    st.builds(lambda path, start, more: Inspect(path, start, start + more), PATHS, st.integers(1, 999_900),
              st.integers(0, 59)),
    st.sampled_from([Execute(), Undo(), FinalAnswer()]),
)  # fmt: skip
BLANKS = st.text(" \t", max_size=3)


def written(action, blanks: str) -> str:
    """The action as a policy would write it."""
    head = f"Thought: because\n{blanks}Action:{blanks}{action.kind.title()}{blanks}\n"
    if isinstance(action, Edit | Write | Inspect):
        head += f"{blanks}File:{blanks}{action.path}{blanks}\n"
    if isinstance(action, Inspect):
        head += f"Lines: {action.start}-{action.end}\n"
    if isinstance(action, Edit):
        head += "\n".join(edit(search, replacement, "") for search, replacement in action.blocks)
    if isinstance(action, Write):
        head += f"```python{blanks}\n{action.content}```{blanks}"
    return head


@given(ACTIONS, BLANKS)
def test_an_action_that_is_written_is_read_as_it_was_meant(action, blanks):
    assert parse(written(action, blanks), TASK) == action
    assert parse(written(action, blanks).replace("\n", "\r\n"), TASK) == action


PIECES = st.sampled_from(
    ["Action: Edit\n", "Action: Write\n", "Action: Inspect\n", "Action:", "File: train.py\n", "File: ../x\n",
     "Lines: 1-2\n",
     "<<<<<<< SEARCH\n", "=======\n", "```\n", ">>>>>>> REPLACE\n", "import a\n", "print(1)\n", "Thought: x\n", "\r\n",
     "\ud800", " ", "\t"]
)  # fmt: skip


@settings(max_examples=400)
@given(st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=16).map("".join))
def test_any_text_is_an_action_or_is_refused(text):
    try:
        action = parse(text, TASK)
        changed = apply(action, FILES, TASK) if isinstance(action, Edit | Write) else {}
    except InvalidAction:
        return
    assert set(changed) <= {"train.py"} and changed != FILES


@settings(deadline=None, max_examples=25, phases=[Phase.generate])
@given(st.lists(st.tuples(PIECES, st.sampled_from([1, 3000])), min_size=1, max_size=6), st.booleans())
def test_long_texts_are_read_in_bounded_time(pieces, opened):
    """The same pieces over and over, where a pattern would try each as the end of each other."""
    text = "".join(piece * times for piece, times in pieces)
    started = time.process_time()
    with contextlib.suppress(InvalidAction):
        parse(f"Action: Edit\n<<<<<<< SEARCH\n{text}" if opened else text, TASK)
    with contextlib.suppress(InvalidAction):
        research_actions.parse(text)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "text",
    [
        "Action: Edit\n" + "<<<<<<< SEARCH\n" * 2000 + "=======\n" * 2000,
        "Action: Edit\n" + "<<<<<<< SEARCH\n=======\n" * 2000,
        "Action: Write\n" + "```x\n" * 20_000,
        "Action: x" + " " * 60_000 + "y",
        "Action: Edit\nFile: x" + "\t" * 60_000 + "y",
        "Action: Inspect\nLines: " + "1" * 100_000,
        edit("\n" * 15_000 + "x\n", "y\n"),
    ],
    ids=["searches", "halves", "fences", "a name", "an argument", "digits", "blank lines"],
)  # fmt: skip
def test_no_text_takes_long_to_be_refused(text):
    started = time.process_time()
    with pytest.raises(InvalidAction):
        apply(parse(text, TASK), {"train.py": "\n" * 40_000}, TASK)
    with pytest.raises(InvalidAction):
        research_actions.parse(text)
    assert time.process_time() - started < 2
