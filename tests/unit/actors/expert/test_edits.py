"""Actions written as text say what they should: the parser reads them back, whatever the scripts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from actors.expert.edits import change, inspect, undo
from envs import actions, changes, research_actions
from envs.records import Direction, Limits, Task

LINES = st.lists(st.sampled_from(["a", "b", "c", "a  ", "    a", "", "x = 1"]), max_size=12)
"""Few kinds of lines, so that what a block searches for often occurs elsewhere as well."""


def task(kind: str = "native", script: str = "train.py") -> Task:
    return Task(
        "t", "", Path("env"), Path("scripts"), script, frozenset(), "accuracy", Direction.MAXIMIZE, "", Limits(), 1.0,
        actions=kind,
    )  # fmt: skip


def text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def written(before: list[str], after: list[str]) -> actions.Edit:
    action = actions.parse(change(task(), "because", text(before), text(after)), task())
    assert isinstance(action, actions.Edit)
    return action


@settings(deadline=None)
@given(LINES, LINES)
@example(["a  ", "a"], ["a  ", "b"])  # lines that differ in blanks at their ends are alike to the reader
@example(["a", "", "b"], ["a", "c", "b"])  # what is replaced is blank
@example(["b", "a"], ["a", "b", "a", "a"])  # a block that reaches down to the next change
@example(["b", "b", "b", "a"], ["a", "b", "b"])
@example(["a", "b", "b", "a", "b", "b"], ["b", "b", "b", "b", "b"])
@example(["a", "a"], ["b", "a", "a", "a"])  # one that can only reach up into the block before
@example(["", "", "a", "a"], ["", "a"])  # one that begins where the block before ends
def test_the_edit_that_is_written_makes_of_before_exactly_after(before, after):
    assume(any(map(str.strip, before)) and before != after)
    edit = written(before, after)
    assert changes.apply(edit, {"train.py": text(before)}, task()) == {"train.py": text(after)}
    assert sum(search.count("\n") for search, _ in edit.blocks) <= len(before), "no line is searched for twice"


def test_lines_that_repeat_in_a_long_script_are_left_alone_between_two_changes():
    before = [f"line {number}" if number % 30 == 0 else "pass" for number in range(300)]
    after = ["new" if number in (120, 150) else line for number, line in enumerate(before)]
    assert written(before, after).blocks == (("line 120\n", "new\n"), ("line 150\n", "new\n"))


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(0, 29), st.integers(0, 3))
def test_a_change_costs_its_own_lines_and_no_more(size, place, added):
    """Where every line differs from all others, nothing more than what changes needs to be searched for."""
    assume(place < size)
    before = [f"line {number}" for number in range(size)]
    new = [f"new {number}" for number in range(added)]
    ((search, replacement),) = written(before, [*before[:place], *new, *before[place + 1 :]]).blocks
    assert (search, replacement) == (text([before[place]]), text(new))


def test_what_is_added_is_anchored_to_the_line_above_or_at_the_top_to_the_one_below():
    before = ["a", "b", "c"]
    assert written(before, ["a", "b", "new", "c"]).blocks == (("b\n", "b\nnew\n"),)
    assert written(before, ["new", "a", "b", "c"]).blocks == (("a\n", "new\na\n"),)


@pytest.mark.parametrize(("apart", "blocks"), [(0, 1), (1, 1), (2, 2), (5, 2)])
def test_two_changes_share_a_block_only_where_at_most_one_line_is_between_them(apart, blocks):
    between = [f"line {number}" for number in range(apart)]
    around = ["first", "second"], ["last but one", "last"]
    before = [*around[0], "old", *between, "other", *around[1]]
    after = [*around[0], "new", *between, "another", *around[1]]
    assert len(written(before, after).blocks) == blocks


def test_a_block_reaches_as_far_as_makes_it_the_only_place_and_not_into_the_one_before():
    assert written(["x", "a", "y", "a"], ["x", "a", "y", "b"]).blocks == (("y\na\n", "y\nb\n"),)
    assert written(["a", "x", "a"], ["b", "x", "a"]).blocks == (("a\nx\n", "b\nx\n"),)


def test_the_other_actions_are_read_back():
    assert actions.parse(undo(task(), "worse"), task()) == actions.Undo()
    assert actions.parse(inspect(task(), "look"), task()) == actions.Inspect("train.py", 1, actions.MAX_INSPECTED_LINES)
    texts = [undo(task(), "why"), inspect(task(), "why"), change(task(), "why", "a\n", "b\n")]
    assert {written_text.partition("\n")[0] for written_text in texts} == {"Thought: why"}


def test_for_a_task_of_the_benchmark_they_are_that_benchmarks_actions():
    theirs = task("mlagentbench", script="main.py")
    cases = {
        change(theirs, "why", "old\n", "new\n"): ("Write File", {"file_name": "main.py", "content": "new\n"}),
        undo(theirs, "why"): ("Undo Edit Script", {"script_name": "main.py"}),
        inspect(theirs, "why"): (
            "Inspect Script Lines", {"script_name": "main.py", "start_line_number": "1", "end_line_number": "20"},
        ),
    }  # fmt: skip
    for written_text, (name, arguments) in cases.items():
        assert written_text.startswith("Thought: why\n")
        assert research_actions.parse(written_text) == research_actions.ResearchAction(name, arguments)
