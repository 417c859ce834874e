"""MLAgentBench's actions: parsed, and turned into ours."""

import contextlib
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.actions import Execute, FinalAnswer, Inspect, InvalidAction, Undo, Write
from envs.records import Direction, Limits, Task
from envs.research_actions import ACTIONS, LOG, Note, ResearchAction, parse, resolve

FILES = {"train.py": "a = 1\nb = 2\nc = 3\n", LOG: "tried a\n"}


@pytest.fixture
def task(tmp_path) -> Task:
    (tmp_path / "env/data").mkdir(parents=True)
    (tmp_path / "env/train.py").write_text(FILES["train.py"])
    (tmp_path / "env/data/notes.txt").write_text("the notes")
    (tmp_path / "env/big.csv").write_text("x" * 50_000)
    (tmp_path / "env/image.bin").write_bytes(b"\xff\xfe\x00")
    return Task(
        "toy", "Find a.", tmp_path / "env", tmp_path / "scripts", "train.py",
        frozenset({"data/notes.txt", "big.csv", "image.bin"}), "accuracy", Direction.MAXIMIZE, "held_in", Limits(),
        None, actions="mlagentbench",
    )  # fmt: skip


def text(name: str, **arguments: object) -> str:
    return (
        "Reflection: none\nResearch Plan and Status: first look.\nFact Check: none\nThought: look\n"
        f"Action: {name}\nAction Input: {json.dumps(arguments, indent=1)}\nObservation:\nas I imagine it"
    )


def come_to(task: Task, name: str, editor=None, **arguments: object):
    return resolve(parse(text(name, **arguments)), FILES, task, editor)


def test_actions_that_need_no_other_model(task):
    assert come_to(task, "List Files", dir_path=".") == "big.csv\ndata/\nimage.bin\nresearch_log.log\ntrain.py"
    assert come_to(task, "List Files", dir_path="data") == "notes.txt"
    assert come_to(task, "Read File", file_name="data/notes.txt") == Inspect("data/notes.txt", 1, 100)
    assert come_to(
        task, "Inspect Script Lines", script_name="train.py", start_line_number="2", end_line_number=900
    ) == Inspect("train.py", 2, 101)
    assert come_to(task, "Write File", file_name="x.py", content="é\n") == Write("x.py", "é\n")
    assert come_to(task, "Append File", file_name="train.py", content="d") == Write("train.py", FILES["train.py"] + "d")
    assert come_to(task, "Copy File", source="data/notes.txt", destination="n.txt") == Write("n.txt", "the notes")
    assert come_to(task, "Undo Edit Script", script_name="train.py") == Undo()
    assert come_to(task, "Execute Script", script_name="train.py") == Execute("train.py")
    assert come_to(task, "Execute Script", script_name="data/notes.txt") == Execute("data/notes.txt")
    assert come_to(task, "Final Answer", final_answer="done") == FinalAnswer()
    assert come_to(task, "Append Summary to Research Log", content="b helps") == Note("b helps")
    assert "no person" in come_to(task, "Request Help", request="install x")


def test_the_editor_changes_a_script_or_a_part_of_it(task):
    asked = []

    def editor(prompt: str) -> str:
        asked.append(prompt)
        return "Here it is:\n```python\nb = 20\n```\nDone."

    whole = {"script_name": "train.py", "edit_instruction": "make b larger", "save_name": "new.py"}
    assert come_to(task, "Edit Script (AI)", editor, **whole) == Write("new.py", "b = 20\n")
    part = {**whole, "start_line_number": "2", "end_line_number": "2", "save_name": "train.py"}
    assert come_to(task, "Edit Script Segment (AI)", editor, **part) == Write("train.py", "a = 1\nb = 20\nc = 3\n")
    assert "a = 1\nb = 2\nc = 3" in asked[0] and "make b larger" in asked[0]
    assert "b = 2" in asked[1] and "a = 1" not in asked[1]


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("Understand File", {"file_name": "train.py", "things_to_look_for": "the model"}, "a = 1"),
        ("Reflection", {"things_to_reflect_on": "what next"}, "tried a"),
        ("Retrieval from Research Log", {"current_plan": "try b"}, "tried a"),
    ],
)
def test_the_editor_answers_questions_with_what_it_needs_to_know(task, name, arguments, told):
    asked = []
    assert come_to(task, name, lambda prompt: asked.append(prompt) or "an answer", **arguments) == "an answer"
    assert told in asked[0] and list(arguments.values())[-1] in asked[0]
    with pytest.raises(InvalidAction, match="editor"):
        come_to(task, name, None, **arguments)


def test_an_editor_that_writes_no_code_makes_the_action_invalid(task):
    with pytest.raises(InvalidAction, match="without a block of code"):
        come_to(
            task, "Edit Script (AI)", lambda _: "I cannot", script_name="train.py", edit_instruction="x",
            save_name="train.py",
        )  # fmt: skip


@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize(
    "path", ["../scripts/answer.csv", "/etc/passwd", "data/../../scripts/eval.py", "~/x", "a\x00b"]
)
def test_no_argument_leads_out_of_the_folder(task, name, path):
    arguments = {key: "1" if "number" in key else path for key in ACTIONS[name]}
    paths = {"dir_path", "file_name", "source", "destination", "script_name", "save_name"} & set(arguments)
    if not paths - {"script_name" if name == "Undo Edit Script" else ""}:
        return
    with pytest.raises(InvalidAction):
        come_to(task, name, lambda _: "```python\nx = 1\n```", **arguments)


@pytest.mark.parametrize(
    "text",
    [
        '**Action:** Read File\n**Action Input:** {"file_name": "train.py"}',
        'Action: Read File\nAction Input:\n```json\n{"file_name": "train.py"}\n```\nLet me read it.',
    ],
)
def test_marks_of_markdown_are_passed_over(text):
    assert parse(text).arguments == {"file_name": "train.py"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("  ", "nothing stands there"),
        ("Thought: hm", "write one line `Action: NAME`"),
        ("Action: Fly\nAction Input: {}", "there is no action 'Fly'"),
        ("Action: Read File\nAction Input: file_name", "not JSON"),
        ("Action: Read File\nAction Input: [1]", "JSON object"),
        ('Action: Read File\nAction Input: {"file": "train.py"}', "file_name is missing"),
        ('Action: Read File\nAction Input: {"file_name": ["train.py"]}', "JSON object of texts"),
        ("Action: Read File\nAction Input: " + "[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_action_says_what_to_do(given, message):
    with pytest.raises(InvalidAction, match=message):
        parse(given)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Copy File", {"source": "none.txt", "destination": "x"}, "no file none.txt"),
        ("Copy File", {"source": "big.csv", "destination": "x"}, "50,000 bytes"),
        ("Copy File", {"source": "image.bin", "destination": "x"}, "not a text file"),
        ("Execute Script", {"script_name": "none.py"}, "no script none.py"),
        ("List Files", {"dir_path": "nowhere"}, "no folder 'nowhere'"),
        ("Inspect Script Lines", {"script_name": "a.py", "start_line_number": 3, "end_line_number": 1}, "from 3 to 1"),
        ("Inspect Script Lines", {"script_name": "a.py", "start_line_number": "a", "end_line_number": 1}, "whole"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_refused(task, name, arguments, message):
    with pytest.raises(InvalidAction, match=message):
        come_to(task, name, **arguments)


@given(st.sampled_from(sorted(ACTIONS)), st.lists(st.text(max_size=20), min_size=5, max_size=5), st.booleans())
def test_an_action_that_is_written_is_read_as_it_was_meant(name, values, ascii_only):
    arguments = dict(zip(ACTIONS[name], values, strict=False))
    written = json.dumps(arguments, ensure_ascii=ascii_only, indent=1)
    read = parse(f"Thought: x\nAction: {name.upper()} \nAction Input: {written}\nand so on")
    assert read == ResearchAction(name, arguments)


def test_lines_may_be_broken_inside_a_text():
    read = parse('Action: Write File\nAction Input: {"file_name": "a.py", "content": "x = 1\ny = 2"}')
    assert read.arguments["content"] == "x = 1\ny = 2"


PIECES = st.sampled_from(
    [*(f"Action: {name}\n" for name in ACTIONS), "Action Input:", "Action Input: ", "{", "}", '"', ":", ",", "[", "]",
     *(f'"{key}": "1"' for keys in ACTIONS.values() for key in keys), "\\", "\\ud800", "1e999", "NaN", "true",
     "null", "\n"]
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.one_of(PIECES, st.text(max_size=4)), st.sampled_from([1, 1, 1, 2000])), max_size=10))
def test_any_text_is_an_action_or_is_refused_in_bounded_time(pieces):
    text = "".join(piece * times for piece, times in pieces)
    started = time.process_time()
    with contextlib.suppress(InvalidAction):
        action = parse(text)
        assert action.name in ACTIONS and tuple(action.arguments) == ACTIONS[action.name]
        assert all(isinstance(value, str) for value in action.arguments.values())
    assert time.process_time() - started < 2
