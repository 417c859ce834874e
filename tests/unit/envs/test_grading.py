"""Grading: only a complete, finite, regular submission gets a score; neither a submission nor a grader harms us."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas._libs.parsers import STR_NA_VALUES

from envs import grader_process, grading
from envs.benchmarks.loader import TaskError
from envs.grader import MAX_CELL, MAX_COLUMNS, MAX_ROWS, rows
from envs.grading import GradeError, GraderFailed, grade, medal, read_submission
from envs.parts import opened
from envs.records import Direction, Limits, Task

GRADER = """
from dataclasses import dataclass
from envs.grading import read_answers, read_submission

@dataclass
class Part:
    weight: "float"

def get_score(folder):
    answers = read_answers(__file__)
    return float((read_submission(folder, answers, ["y"])["y"] == answers["y"]).mean())
"""
BOUNDED_SECONDS = 30.0
"""A refusal takes a fraction of a second, a few on a busy machine; without the bounds it would take minutes."""


@pytest.fixture
def task(tmp_path: Path) -> Task:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "eval.py").write_text(GRADER)
    (scripts / "answers.csv").write_text("id,y\n7,71\n8,82\n9,93\n")
    (tmp_path / "workspace").mkdir()
    return Task(
        "toy", "", tmp_path / "env", scripts, "train.py", frozenset(), "accuracy", Direction.MAXIMIZE, "held_in",
        Limits(), 1.0, medals=(("gold", 0.9), ("bronze", 0.5)),
    )  # fmt: skip


def graded(task: Task, content: str, body: str = "", answers: str = "") -> float:
    """The score of a submission; body: of get_score, in the place of the task's own."""
    workspace = task.private_dir.parent / "workspace"
    (workspace / "submission.csv").write_text(content)
    if body:
        indented = "\n".join(f"    {line}" for line in body.split("\n"))
        (task.private_dir / "eval.py").write_text(
            f"import os, sys\nSCRIPTS = os.path.dirname(__file__)\ndef get_score(folder):\n{indented}\n"
        )
    if answers:
        (task.private_dir / "answers.csv").write_text(answers)
    return grade(task, workspace)[0]


def test_rows_in_any_order_are_aligned_to_the_answers(task: Task) -> None:
    assert graded(task, "id,y\n7,71\n8,82\n9,93\n") == 1.0
    assert graded(task, "y,id,extra\n93,9,a\n71,7,b\n0,8,c\n") == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not a CSV"),
        ("\x00\xff", "column"),
        ("id,z\n7,1\n8,1\n9,1\n", "column 'y' is missing"),
        ("y\n1\n1\n1\n", "column 'id' is missing"),
        ("id,y\n7,1\n7,1\n9,1\n", "twice"),
        ("id,y\n7,1\n8,1\n", "ids must be"),
        ("id,y\n7,1\n8,1\n10,1\n", "ids must be"),
        ("id,y\n7,1\n8,1\n9,1\n10,1\n", "ids must be"),
        ("id,y\n7,1\n8,\n9,1\n", "missing or not finite"),
        ("id,y\n7,1\n8,NA\n9,1\n", "missing or not finite"),
        ("id,y\n7,1\n8,inf\n9,1\n", "missing or not finite"),
        ("id,y\n7,1\n8,-Infinity\n9,1e400\n", "missing or not finite"),
        ('id,y\n7,1\n8,"2\n9,1\n', "CSV|ids must be"),
    ],
)
def test_a_bad_table_is_refused_without_a_word_on_the_answers(task: Task, content: str, reason: str) -> None:
    with pytest.raises(GradeError, match=reason) as refused:
        graded(task, content)
    assert not isinstance(refused.value, GraderFailed), "the grader refused it as it should"
    assert not any(answer in str(refused.value) for answer in ("71", "82", "93"))


LABELS = ["NA", "None", "null", "nan", "N/A", "NULL", "1", "02", "1e5", "a b", "é"]


@pytest.mark.parametrize("column", ["y", "prediction"])
def test_a_class_may_be_called_as_a_missing_value_or_a_number(task: Task, column: str) -> None:
    (task.private_dir / "eval.py").write_text(GRADER.replace('["y"])["y"]', f'["{column}"])["{column}"]'))
    rows = "".join(f"{number},{label}\n" for number, label in enumerate(LABELS))
    assert graded(task, f"id,{column}\n{rows}", answers=f"id,y\n{rows}") == 1.0
    shifted = "".join(f"{number},{label}\n" for number, label in enumerate([*LABELS[1:], LABELS[0]]))
    assert graded(task, f"id,{column}\n{shifted}") == 0.0
    only_numbers = "".join(f"{number},1\n" for number in range(len(LABELS)))
    assert graded(task, f"id,{column}\n{only_numbers}") == pytest.approx(1 / len(LABELS))
    with pytest.raises(GradeError, match="missing"):
        graded(task, f"id,{column}\n{rows}".replace("1e5", "<NA>"))


def test_without_such_a_class_no_value_is_what_pandas_takes_for_none() -> None:
    assert grading.MISSING == STR_NA_VALUES


def test_ids_may_be_called_so_too(task: Task) -> None:
    assert graded(task, "id,y\nnull,3\nNA,1\n1,2\n", answers="id,y\nNA,1\n1,2\nnull,3\n") == 1.0


def test_answers_that_are_text_stay_text(tmp_path: Path) -> None:
    (tmp_path / "answers.csv").write_text("id,y\n1,07\n2,08\n")
    assert list(grading.read_answers(tmp_path / "eval.py", text=["y"])["y"]) == ["07", "08"]
    assert list(grading.read_answers(tmp_path / "eval.py")["y"]) == [7, 8]


def test_only_a_regular_file_of_bounded_size_is_read(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = task.private_dir.parent / "workspace"
    file = workspace / "submission.csv"
    with pytest.raises(GradeError, match="wrote no"):
        grade(task, workspace)
    makers = [
        lambda: file.symlink_to(task.private_dir / "answers.csv"),
        lambda: os.link(task.private_dir / "answers.csv", file),
        lambda: os.mkfifo(file),
    ]
    for make in makers:
        make()
        with pytest.raises(GradeError, match="regular file"):
            grade(task, workspace)
        file.unlink()
    file.mkdir()
    with pytest.raises(GradeError, match="regular file"):
        grade(task, workspace)
    file.rmdir()
    content = "id,y\n7,71\n8,82\n9,93\n"
    monkeypatch.setattr(grading, "MAX_BYTES", len(content))
    assert graded(task, content) == 1.0
    monkeypatch.setattr(grading, "MAX_BYTES", len(content) - 1)
    with pytest.raises(GradeError, match="at most 19"):
        graded(task, content)


def test_no_descriptor_is_left_whether_a_submission_is_graded_or_refused(task: Task) -> None:
    content = "id,y\n7,71\n8,82\n9,93\n"
    graded(task, content)
    before = os.listdir("/proc/self/fd")
    for number in range(5):
        graded(task, content)
        with pytest.raises(GradeError, match="ids must be"):
            graded(task, "id,y\n7,71\n")
        os.link(task.private_dir.parent / "workspace" / "submission.csv", task.private_dir / str(number))
        with pytest.raises(GradeError, match="regular file"):
            grade(task, task.private_dir.parent / "workspace")
        (task.private_dir / str(number)).unlink()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_the_grader_sees_a_private_copy_and_nothing_else_of_the_workspace(task: Task) -> None:
    workspace = task.private_dir.parent / "workspace"
    (workspace / "helper.csv").write_text("left by the script")
    body = "open('submission.csv', 'a').write('more')\nopen('own', 'w')\n"
    body += f"return float(sorted(os.listdir(folder)) == ['own', 'submission.csv'] and folder != {str(workspace)!r})"
    assert graded(task, "id,y\n", body) == 1.0
    assert graded(task, "id,y\n") == 1.0, "each grading has a folder of its own"
    assert sorted(os.listdir(workspace)) == ["helper.csv", "submission.csv"]
    assert (workspace / "submission.csv").read_text() == "id,y\n"


@pytest.mark.parametrize("body", ["return float('nan')", "return -float('inf')"])
def test_a_score_that_is_not_finite_is_a_refusal(task: Task, body: str) -> None:
    with pytest.raises(GradeError, match="its accuracy is"):
        graded(task, "id,y\n7,1\n", body)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise KeyError('column')", "KeyError: 'column'"),
        ("return None", "TypeError"),
        ("sys.exit(0)", "SystemExit: 0"),
        ("os._exit(0)", "ended its process"),
        ("os.kill(os.getpid(), 9)", "ended its process"),
        ("raise ValueError('x' * 10_000_000)", "ValueError: xxx"),
        ("kept = bytearray(1 << 31)\nreturn 1.0", "MemoryError"),
        ("while True: pass", "longer than 2 s"),
        (
            "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nimport time\ntime.sleep(1000)",
            "longer than 2 s",
        ),
    ],
)
def test_a_grader_that_fails_gives_no_score_and_the_next_is_as_ever(
    task: Task, body: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grader_process, "SECONDS", 2)
    monkeypatch.setattr(grader_process, "GRACE_SECONDS", 100.0)  # it ends by its own deadline, and is not just left
    monkeypatch.setattr(grader_process, "MEMORY_MB", 512)
    here, started = os.getcwd(), time.monotonic()
    with pytest.raises(GraderFailed, match=told) as failed:
        graded(task, "id,y\n7,1\n", f"if open(folder + '/submission.csv').read() == 'well': return 0.5\n{body}")
    assert len(str(failed.value)) < 3000 and os.getcwd() == here and time.monotonic() - started < 60
    assert graded(task, "well") == 0.5


def test_what_a_grader_does_to_its_process_is_not_done_to_ours(task: Task) -> None:
    body = "os.chdir('/')\nos.environ['LEFT'] = '1'\nos.umask(0)\nprint('loud')\nsys.path.clear()\nreturn 1.0"
    here, path = os.getcwd(), list(sys.path)
    assert graded(task, "id,y\n", body) == 1.0 == graded(task, "id,y\n")
    assert os.getcwd() == here and "LEFT" not in os.environ and sys.path == path


def test_a_grader_can_neither_write_beside_its_folder_nor_reach_a_network(task: Task) -> None:
    graded(task, "", "return 1.0")
    if not grading.process.confined:
        pytest.skip("NOT TESTED: bubblewrap does not work here")
    attempts = f"""
import socket
for attempt in (lambda: open(os.path.join(SCRIPTS, "answers.csv"), "w"),
                lambda: open({str(task.private_dir.parent / "workspace" / "left")!r}, "w"),
                lambda: os.unlink(os.path.join(SCRIPTS, "answers.csv"))):
    try: attempt()
    except OSError: continue
    return 1.0
return float([name for _, name in socket.if_nameindex()] != ["lo"])"""
    assert graded(task, "", attempts) == 0.0


def test_gradings_run_at_the_same_time(task: Task) -> None:
    """Each waits for a file that the other one's host makes only once both have begun."""
    folder = task.private_dir.parent
    body = """
import time
name = open(folder + "/submission.csv").read()
os.makedirs(os.path.join(folder, "begun-" + name))
end = time.monotonic() + 30
while time.monotonic() < end:
    if len([1 for _, inside, _ in os.walk(os.path.dirname(folder)) for n in inside if n.startswith("begun-")]) == 2:
        time.sleep(0.5)
        return 1.0
    time.sleep(0.02)
return 0.0"""
    graded(task, "warm", "return 1.0")
    (task.private_dir / "eval.py").write_text("import os\ndef get_score(folder):\n" + body.replace("\n", "\n    "))
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "submission.csv").write_text(name)
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda name: grade(task, folder / name)[0], ("a", "b"))) == [1.0, 1.0]


def test_a_worker_that_was_killed_while_it_waited_is_replaced(task: Task) -> None:
    pid = int(graded(task, "", "return os.getpid()"))
    assert graded(task, "") == pid, "it is kept warm"
    os.kill(pid, 9)
    assert graded(task, "") != pid


def test_a_grader_that_takes_its_alarm_away_ends_when_the_host_gives_it_up(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grader_process, "SECONDS", 1)
    monkeypatch.setattr(grader_process, "GRACE_SECONDS", 1.0)
    body = """
if open(folder + "/submission.csv").read() == "pid": return os.getpid()
import signal
signal.alarm(0)
while True: pass"""
    pid = int(graded(task, "pid", body))
    with pytest.raises(GraderFailed, match="longer than 1 s"):
        graded(task, "loop")
    end = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    "content",
    [
        "def get_score(:",
        "import a_module_that_is_not_there",
        "score = 1",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "while True: pass",
    ],
)
def test_a_broken_grader_is_the_tasks_fault_not_the_scripts(
    task: Task, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grader_process, "SECONDS", 2)
    (task.private_dir / "eval.py").write_text(content)
    with pytest.raises(TaskError, match=r"eval\.py"):
        graded(task, "id,y\n7,1\n")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (",".join(["spam", "ham"] * 10_000) + "\n", "columns"),  # labels joined where lines were meant
        (",".join("0" * 40_000) + "\n", "columns"),
        (",".join("0" * (1 << 19)) + "\n", "columns"),
        (",".join(f"c{i}" for i in range(400_000)) + "\n" + "," * 399_999 + "\n", "columns"),
        ("id,y\n7," + "," * 400_000 + "\n", "columns"),
        ('"id\n\n",y' + ",0" * 40_000 + "\n", "columns"),
        ("id,y\n7," + "9" * (2 << 20) + "\n", "CSV"),
        ('id,y\n7,"' + "\n" * (2 << 20), "CSV"),
    ],
    ids=["words", "80 kB", "1 MiB", "400,000 names", "a row", "a header of lines", "a cell", "a quote"],
)
def test_a_table_too_large_to_be_read_is_refused_at_once(task: Task, content: str, reason: str) -> None:
    graded(task, "id,y\n7,71\n8,82\n9,93\n")
    started = time.monotonic()
    with pytest.raises(GradeError, match=reason) as refused:
        graded(task, content)
    assert time.monotonic() - started < BOUNDED_SECONDS and len(str(refused.value)) < 300
    assert not isinstance(refused.value, GraderFailed)


def test_a_table_as_large_as_allowed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "table.csv"
    file.write_text(",".join(["1"] * MAX_COLUMNS) + "\n" + "x" * MAX_CELL + "\n")
    monkeypatch.setattr("envs.grader.MAX_ROWS", 2)
    with opened(file) as table:
        assert [len(cells) for cells, _ in rows(table)] == [2]
    file.write_text("1\n" * 3)
    with pytest.raises(GradeError, match="more than 2 rows"), opened(file) as table:
        list(rows(table))
    assert MAX_ROWS >= 5_800_000, "MLE-bench's longest submission that is otherwise small enough"


CELL = st.one_of(
    st.sampled_from(["7", "8", "9", "71", "82", "93", "", "NA", "inf", '"', "1e999", "id", "y", "\r", "0x1", "-"]),
    st.text(max_size=6),
)
ROW = st.lists(CELL, max_size=5).map(",".join)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROW, max_size=6).map("\n".join), st.sampled_from(["", "id,y\n", "y,id\n"]))
def test_any_table_gets_a_score_or_a_refusal_in_bounded_time(task: Task, rows: str, header: str) -> None:
    workspace = task.private_dir.parent / "workspace"
    (workspace / "submission.csv").write_text(header + rows, encoding="utf-8", errors="surrogatepass")
    started = time.monotonic()
    try:
        assert 0.0 <= grade(task, workspace)[0] <= 1.0
        assert all(name in header + rows for name in ("id", "y", "7", "8", "9")), "it names every id"
    except GradeError as refused:
        assert "refused" in str(refused)
    assert time.monotonic() - started < BOUNDED_SECONDS


VALUE = st.one_of(st.integers(-5, 5).map(str), st.sampled_from(["a", "NA", "None", "null", "07", "1.0", "true", "x y"]))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(VALUE, VALUE), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_whatever_the_labels_the_score_counts_those_that_are_written_alike(
    pairs: list[tuple[str, str]], rng: random.Random
) -> None:
    """Against a count of equal texts, where answers hold at least one word, and so are labels."""
    pairs = [("word", "word"), *pairs]
    rows = list(enumerate(pairs))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "answers.csv").write_text("id,y\n" + "".join(f"i{n},{truth}\n" for n, (truth, _) in rows))
        rng.shuffle(rows)
        known = {truth for truth, _ in pairs}
        (Path(folder) / "submission.csv").write_text("id,y\n" + "".join(f"i{n},{guess}\n" for n, (_, guess) in rows))
        answers = grading.read_answers(Path(folder) / "eval.py")
        if any(guess in grading.MISSING - known for _, guess in pairs):
            with pytest.raises(GradeError, match="missing"):
                read_submission(folder, answers, ["y"])
            return
        right = (read_submission(folder, answers, ["y"])["y"] == answers["y"]).mean()
    assert right == pytest.approx(sum(truth == guess for truth, guess in pairs) / len(pairs))


def test_numbers_are_compared_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "submission.csv").write_text("id,p\n01,1e0\n2,2.50\n")
    read = read_submission(tmp_path, pd.DataFrame({"id": [2, 1], "y": [0.0, 1.0]}), ["p"])
    assert list(read["p"]) == [2.5, 1.0] and list(read["id"]) == [2, 1]


def test_medals_go_to_the_best_that_is_earned_in_the_tasks_direction(task: Task) -> None:
    assert [medal(task, score) for score in (0.95, 0.9, 0.5, 0.4)] == ["gold", "gold", "bronze", None]
    down = replace(task, direction=Direction.MINIMIZE, medals=(("gold", 0.1), ("bronze", 0.5)))
    assert [medal(down, score) for score in (0.1, 0.2, 0.6)] == ["gold", "bronze", None]


def test_without_bubblewrap_graders_run_all_the_same(
    task: Task, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bwrap").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(grading, "process", grader_process.GraderProcess())
    assert graded(task, "id,y\n7,71\n8,82\n9,93\n") == 1.0
    assert "with the rights of this process" in caplog.text and not grading.process.confined


@pytest.mark.slow
@pytest.mark.parametrize("host_ends", [True, False])
def test_a_grader_whose_folder_is_gone_says_so_unless_its_host_ends(host_ends: bool) -> None:
    """A host that ends deletes the folder first, and closes its socket last."""
    code = """
from envs import grader
def preload():
    print(flush=True)
    raise OSError("no folder")
grader.preload, grader.LEAVING_SECONDS = preload, 60 if %s else 0
grader.main()
"""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        started = subprocess.Popen(
            [sys.executable, "-c", code % host_ends], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        theirs.close()
        assert started.stdout.readline() == "\n"
        time.sleep(0.2)
        if host_ends:
            ours.close()
        _, said = started.communicate(timeout=60)
    assert (started.returncode, "no folder" in said) == ((0, False) if host_ends else (1, True)), said
