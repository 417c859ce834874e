"""Validation and test: every row in one part, like rows in both, and nothing that is seen tells of the test part."""

from __future__ import annotations

import csv
import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from envs import parts
from envs.grading import GradeError, GraderFailed, grade
from envs.parts import FEWEST, IDS, TEST, VALIDATION, Division, Unknown, divide, opened, read, undivided
from envs.records import Direction, Limits, Task, Withheld

GRADER = """
from envs.grading import read_answers, read_submission

def get_score(folder):
    answers = read_answers(__file__)
    return float((read_submission(folder, answers, ["y"])["y"] == answers["y"]).mean())
"""
ROWS = 60
LABELS = ["cat", "dog", "NA"]
ANSWERS = "id,y\n" + "".join(f"{100 - i},{LABELS[i % 3]}\n" for i in range(ROWS))


def make(folder: Path, answers: str = ANSWERS, grader: str = GRADER, name: str = "answers.csv", **shown: str) -> Task:
    """A task with its parts; shown: files of env/ (without .csv) and their text."""
    (folder / "scripts").mkdir(parents=True)
    (folder / "env").mkdir()
    (folder / "workspace").mkdir()
    (folder / "scripts/eval.py").write_text(grader)
    (folder / "scripts" / name).write_text(answers)
    for file, text in shown.items():
        (folder / "env" / f"{file}.csv").write_text(text)
    divide(folder / "scripts", folder / "env", folder / "parts")
    reason = undivided(folder / "parts")
    return Task(
        "toy", "", folder / "env", folder / "scripts", "train.py", frozenset(), "accuracy", Direction.MAXIMIZE,
        "held_in", Limits(), 1.0, parts=None if reason else folder / "parts", undivided=reason,
    )  # fmt: skip


def ids(task: Task) -> dict[str, set[str]]:
    return {name: set(of_part) for name, of_part in json.loads((task.parts / IDS).read_text())[1].items()}


def wrong(task: Task, names: set[str]) -> str:
    """A submission that is right but for these rows."""
    header, *lines = ANSWERS.splitlines()
    return "\n".join([header, *(f"{line.partition(',')[0]},bird" if line.partition(",")[0] in names else line
                                for line in lines)]) + "\n"  # fmt: skip


def scored(task: Task, submission: str) -> tuple[float, Withheld]:
    workspace = task.private_dir.parent / "workspace"
    (workspace / "submission.csv").write_text(submission)
    return grade(task, workspace)[:2]


def test_each_part_is_graded_on_its_own_rows_and_classes_have_the_same_share(tmp_path: Path) -> None:
    task = make(tmp_path)
    of = ids(task)
    assert not of[VALIDATION] & of[TEST] and len(of[VALIDATION]) == len(of[TEST]) == ROWS / 2
    for part in of:
        counts = pd.read_csv(task.parts / part / "answers.csv", keep_default_na=False)["y"].value_counts()
        assert sorted(counts) == [10, 10, 10]
    assert scored(task, ANSWERS) == (1.0, Withheld(1.0))
    five = set(sorted(of[TEST])[:6])
    assert scored(task, wrong(task, five)) == (1.0, Withheld(pytest.approx(0.8)))
    assert scored(task, wrong(task, of[VALIDATION])) == (0.0, Withheld(1.0))
    medals = dataclasses.replace(task, medals=(("gold", 0.9),))
    assert scored(medals, wrong(task, five)) == (1.0, Withheld(pytest.approx(0.8), pytest.approx(0.9)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda lines: lines[:-1], "ids must be"),
        (lambda lines: [*lines, lines[-1]], "twice"),
        (lambda lines: [*lines, "7,cat"], "ids must be"),
        (lambda lines: [line.replace("id,", "name,") for line in lines], "column 'id' is missing"),
        (lambda lines: [lines[0], *(f"{line.partition(',')[0]}," for line in lines[1:])], "missing or not finite"),
        (lambda lines: [], "column 'id' is missing"),
    ],
    ids=["short", "doubled", "unknown", "no ids", "empty", "nothing"],
)
def test_what_is_refused_of_the_whole_is_refused_of_the_parts_and_tells_nothing_of_them(
    tmp_path: Path, change, reason: str
) -> None:
    task = make(tmp_path)
    for order in (1, -1):  # the last row is of either part
        header, *lines = ANSWERS.splitlines()
        with pytest.raises(GradeError, match=reason) as refused:
            scored(task, "\n".join(change([header, *lines[::order]])) + "\n")
        assert not any(word in str(refused.value) for word in ("30", "validation", "part", "cat", "dog"))


def test_ids_are_those_that_a_grader_takes_for_the_same(tmp_path: Path) -> None:
    task = make(tmp_path)
    header, *lines = ANSWERS.splitlines()
    for style in ("{}.0", "0{}", " {}", '"{}"'):
        written = [f"{style.format(line.partition(',')[0])},{line.partition(',')[2]}" for line in lines[::-1]]
        assert scored(task, "\ufeff" + "\n".join([header, *written])) == (1.0, Withheld(1.0)), style


def test_graders_of_both_parts_find_in_the_table_what_each_would_find_in_its_own(tmp_path: Path) -> None:
    """The table is parsed once; one that reads its part's file itself finds that, and either may see the other way."""
    by_hand = GRADER.replace("def get_score", "import csv\ndef get_score").replace(
        "    return",
        """    with open(folder + "/submission.csv") as file:
        rows = {row["id"]: row["y"] for row in csv.DictReader(file)}
    own = read_submission(folder, answers, ["y"])
    assert len(own) == len(rows) == len(answers) and rows == dict(zip(own["id"].astype(str), own["y"])), "it differs"
    own["y"] = own["id"] = "another's"
    answers["y"] = answers["id"] = 7
    answers = read_answers(__file__)
    return""",
    )
    task = make(tmp_path, grader=by_hand)
    six = set(sorted(ids(task)[TEST])[:6])
    for _ in range(2):
        assert scored(task, wrong(task, six)) == (1.0, Withheld(pytest.approx(0.8)))


def test_a_class_called_as_no_value_may_be_in_one_part_alone(tmp_path: Path) -> None:
    """The graders of the parts take different words for no value, and find them in one table."""
    rare = ["N/A", "NULL", "NaN", "None", "nan", "null"]
    answers = "id,y\n" + "".join(f"{i},{label}\n" for i, label in enumerate([*rare, *["cat", "dog"] * 25]))
    task = make(tmp_path, answers)
    apart = [{answers.splitlines()[int(name) + 1].split(",")[1] for name in of} for of in ids(task).values()]
    assert all(one & set(rare) for one in apart) and not apart[0] & apart[1] & set(rare)
    assert scored(task, answers) == (1.0, Withheld(1.0))
    predicted = answers.replace("cat", "NULL").replace("dog", "None")  # each of them an answer of one part
    assert scored(task, predicted) == (pytest.approx(3 / 28), Withheld(pytest.approx(3 / 28)))


@pytest.mark.parametrize(
    "answers",
    [
        "id,y\n" + "".join(f"{i},{label}\n" for i, label in enumerate(["a", *["0", "1"] * 25])),
        "id,y\n" + "".join(f"{name},{i % 2}\n" for i, name in enumerate(["x1", *map("{:03}".format, range(50))])),
        "id,y\n" + "".join(f"{name},{i % 2}\n" for i, name in enumerate(["NA", "null", "None", *range(50)])),
        "id,y\n" + "".join(f"{name},{i % 2}\n" for i, name in enumerate(["7", "07", "7.0", *range(100, 150)])),
    ],
    ids=["one label is no number", "one id is no number", "ids called as no value", "ids that are one number"],
)
def test_ids_and_labels_of_a_part_are_what_they_are_in_all_answers(tmp_path: Path, answers: str) -> None:
    task = make(tmp_path, answers)
    assert task.parts and scored(task, answers) == (1.0, Withheld(1.0))
    none = answers.replace(",0\n", ",2\n").replace(",1\n", ",0\n").replace(",2\n", ",1\n").replace(",a\n", ",0\n")
    assert scored(task, none) == (0.0, Withheld(0.0))


def test_the_grader_of_either_part_has_the_whole_of_its_time(tmp_path: Path) -> None:
    """Each leaves little of it."""
    timed = "    import signal\n    assert signal.alarm(20) > 30, 'too little is left'\n    return"
    assert scored(make(tmp_path, grader=GRADER.replace("    return", timed)), ANSWERS) == (1.0, Withheld(1.0))


def test_a_grader_finds_what_the_agent_sees_where_it_looks_for_it(tmp_path: Path) -> None:
    """Those of MLAgentBench take functions of the unchanged script."""
    beside = "import os, sys\nsys.path.insert(0, os.path.join(os.path.dirname(__file__), '../env'))\nimport helper\n"
    task = make(tmp_path, grader=beside + GRADER.replace("float(", "helper.half * float("))
    (task.env_dir / "helper.py").write_text("half = 0.5\n")
    assert scored(task, ANSWERS) == (0.5, Withheld(0.5))


def test_a_grader_that_needs_all_answers_is_named_and_can_say_so(tmp_path: Path) -> None:
    needs_all = GRADER.replace("    return", f"    assert len(answers) == {ROWS}, 'all are needed'\n    return")
    task = make(tmp_path, grader=needs_all)
    with pytest.raises(GraderFailed, match="all are needed"):
        scored(task, ANSWERS)
    assert scored(dataclasses.replace(task, parts=None), ANSWERS) == (1.0, Withheld(1.0, apart=False))


def table(columns: str, rows: int = ROWS) -> str:
    return columns + "\n" + "".join(",".join([f"r{i}", *[str(i)] * columns.count(",")]) + "\n" for i in range(rows))


LAST = "y,text\n" + "".join(f"{i % 2},r{i}\n" for i in range(ROWS))
"""The ids are not the first column."""


@pytest.mark.parametrize(
    ("answers", "name", "shown", "reason"),
    [
        (table("id,y"), "answers.csv", {}, ""),
        (table("PassengerId,y"), "answer.csv", {"test": table("PassengerId,x")}, ""),
        (table("PassengerId,y"), "answers.csv", {"sample": table("PassengerId,y"), "train": table("a,b", 9)}, ""),
        (LAST, "answers.csv", {"sample": LAST.replace("\n1,", "\n0,")}, ""),
        (table("PassengerId,y"), "answer.csv", {"test": table("Id,x")}, "no column of scripts/answer.csv has ids"),
        (
            table("PassengerId,y"),
            "answer.csv",
            {"test": table("PassengerId,x", ROWS - 1)},
            "that a table in env/ shows",
        ),
        (table("id,y", FEWEST - 1), "answers.csv", {}, "39 answers are too few"),
        (table("id,y") + "r1,2\n", "answers.csv", {}, "each once"),
        (table("id,y") + "r1\n", "answers.csv", {}, "is no table"),
        ("", "answers.csv", {}, "is no table"),
        (table("id,y"), "labels.txt", {}, "no answers.csv"),
    ],
)
def test_answers_that_cannot_be_divided_say_why(
    tmp_path: Path, answers: str, name: str, shown: dict[str, str], reason: str
) -> None:
    task = make(tmp_path, answers, name=name, **shown)
    assert (task.parts is None) == bool(reason) and reason in task.undivided


ALPHABET = "aé\u2028\U0001f600 ,;\"'\n\r\t0123.-"


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("at_once", [1, 7, parts.AT_ONCE])
def test_whatever_the_ids_the_parts_together_are_the_table_as_it_was_written(
    tmp_path: Path, seed: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "AT_ONCE", at_once)
    rng = random.Random(seed)
    names = list({"".join(rng.choices(ALPHABET, k=rng.randint(1, 4))): None for _ in range(60 + seed)})
    rows = [[name, rng.choice(["a,b", 'say "x"', "line\nbreak", "1", "2.5"])] for name in names]
    (tmp_path / "scripts").mkdir()
    (tmp_path / "env").mkdir()
    with (tmp_path / "scripts/answers.csv").open("w", newline="") as file:
        style = {"lineterminator": "\n", "quoting": csv.QUOTE_ALL} if seed % 2 else {}
        csv.writer(file, **style).writerows([["id", "y"], *rows])
    divide(tmp_path / "scripts", tmp_path / "env", tmp_path / "parts")
    assert not undivided(tmp_path / "parts")

    def written(file: Path) -> list[str]:
        with opened(file) as text:
            return [row for _, texts in read(text) for row in texts][1:]

    halves = [written(tmp_path / "parts" / part / "answers.csv") for part in (VALIDATION, TEST)]
    whole = written(tmp_path / "scripts/answers.csv")
    assert sorted([*halves[0], *halves[1]]) == sorted(whole) and abs(len(halves[0]) - len(halves[1])) <= 1
    assert len(whole) == len(rows) and all([row for row in whole if row in half] == half for half in halves)


def test_a_quantity_is_divided_evenly_and_only_by_who_knows_the_answers() -> None:
    targets = [str(value) for value in np.random.default_rng(0).lognormal(size=400)]
    seeds = [bytes([number]) * 32 for number in range(30)]
    drawn = np.array([parts._drawn(targets, seed) for seed in seeds])
    values = np.array(targets, float)
    apart = [values[of == 0].mean() - values[of == 1].mean() for of in drawn]
    at_random = values.std() * 2 / np.sqrt(len(values))
    assert np.std(apart) < at_random / 4
    assert 0.3 < np.mean(drawn, axis=0).mean() < 0.7 and len({tuple(of) for of in drawn}) == len(seeds)


def test_a_row_without_an_id_is_no_answers(tmp_path: Path) -> None:
    task = make(tmp_path)
    with pytest.raises(Unknown, match="ids must be"):
        Division(task.parts).cut([([["y", "id"], ["cat"]], ["y,id\n", "cat\n"])], tmp_path, "submission.csv")


def test_what_one_table_was_divided_by_is_right_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "AT_ONCE", 16)
    task = make(tmp_path)
    division, of = Division(task.parts), ids(task)
    header, *lines = ANSWERS.splitlines()
    unknown, nameless = [*lines[:20], "1000,cat", *lines[21:]], [*lines[:5], ",cat", *lines[5:]]
    blank = [*lines[:5], "", *lines[5:]]
    for table in (lines, lines, lines[::-1], lines[:7], lines[3:], blank, nameless, blank, unknown, lines):
        (tmp_path / "table.csv").write_text("\n".join([header, *table]) + "\n")
        with opened(tmp_path / "table.csv") as file:
            if table in (unknown, nameless):
                with pytest.raises(Unknown):
                    division.cut(read(file), tmp_path, "submission.csv")
                continue
            division.cut(read(file), tmp_path, "submission.csv")
        for part, names in of.items():
            expected = [header, *(line for line in table if line.partition(",")[0] in names)]
            assert (tmp_path / part / "submission.csv").read_text().splitlines() == expected
