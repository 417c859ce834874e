"""`python -m envs`: the commands, and what `check` finds."""

import contextlib
import io
import json
import re

import pytest

from envs import __main__ as command
from envs.benchmarks.loader import builtin_tasks, load
from envs.sandbox import SandboxPool


@pytest.fixture
def run_alone(capsys):
    """Run `python -m envs …`: (exit status, or what it says where that is 1, stdout)."""

    def run(*arguments: str) -> tuple[object, str]:
        try:
            status = command.main(arguments)
        except SystemExit as stop:  # argparse's
            status = stop.code
        out, err = capsys.readouterr()
        return (err if status == 1 else status), out

    return run


@pytest.fixture(scope="module")
def sandboxes():
    pool = SandboxPool("process")
    yield pool
    pool.close()


@pytest.fixture
def run(run_alone, sandboxes, monkeypatch):
    """As `run_alone`, with sandboxes that other tests use, too, and need not wait for."""
    monkeypatch.setattr(command, "_sandboxes", lambda backend: contextlib.nullcontext(sandboxes))
    return run_alone


def test_command_list(run):
    status, out = run("list")
    assert status == 0 and all(name in out for name in builtin_tasks())


def test_command_check(run_alone):
    status, out = run_alone("check", "diabetes", "--sandbox", "process")
    found = json.loads(out)
    assert status == 0 and list(found) == [
        "task", "metric", "direction", "score", "test_score", "answers", "outcome", "seconds", "problems",
    ]  # fmt: skip
    assert found["answers"] == {"validation": 110, "test": 111} and found["test_score"] != found["score"]
    squares = 110 * found["score"] ** 2 + 111 * found["test_score"] ** 2
    assert (squares / 221) ** 0.5 == pytest.approx(62.01, abs=0.01) and found["direction"] == "minimize"
    assert found["problems"] == []


def test_command_step(run, tmp_path):
    (tmp_path / "action").write_text(
        "Action: Edit\n<<<<<<< SEARCH\nmodel = KNeighborsRegressor()\n=======\n"
        "from sklearn.linear_model import Ridge\nmodel = Ridge(alpha=1.0)\n>>>>>>> REPLACE\n"
    )
    status, out = run("step", "diabetes", "--action", str(tmp_path / "action"), "--sandbox", "process")
    found = json.loads(out)
    assert status == 0 and list(found) == [
        "outcome", "score_before", "score_after", "reward", "reward_parts", "durations", "log_tail"
    ]  # fmt: skip
    assert found["outcome"] == "edited" and found["score_after"] < found["score_before"] and found["reward"] > 0.9


def test_command_step_reads_from_a_pipe_and_rewards_as_it_is_configured(run, monkeypatch):
    def worth(*settings: str) -> float:
        monkeypatch.setattr("sys.stdin", io.StringIO("Action: Execute\n"))
        return json.loads(run("step", "wine", "--action", "-", "--sandbox", "process", *settings)[1])["reward"]

    assert (worth(), worth("reward.version=v2"), worth("config=smoke")) == (0.5, 0.0, 0.5)
    said, _ = run("step", "wine", "--action", "-", "reward.version=v9")
    assert "reward.version=v9: choose one of v1, v2" in said
    assert run("check", "wine", "reward.version=v2")[0] == 2, "it has no use for it"
    said, _ = run("check", "wine", "tasks.limits.second=1")
    assert "did you mean tasks.limits.seconds?" in said
    said, _ = run("best", "wine", "tasks.limits.seconds=0.001")
    assert "stopped after 0.001 s" in said


def test_command_prompt(run, caplog):
    caplog.set_level("INFO")
    status, out = run("prompt", "wine", "model.context=700", "model.response=100")
    assert status == 0 and out.startswith("<|im_start|>system\n") and "Now 1.164" in out
    assert re.search(r"^\d\d\d tokens of the 600 that model.context leaves", caplog.messages[-1])


def test_command_with_a_failing_baseline(run, tmp_path):
    task = load("diabetes")
    folder = tmp_path / "broken"
    for file, text in {
        "task.yaml": (task.private_dir.parent / "task.yaml").read_text(),
        "env/train.py": "print('so far')\nraise ValueError('no luck')\n",
        "scripts/eval.py": "def get_score(folder): return 1.0\n",
        "scripts/research_problem.txt": "Anything.",
    }.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    status, out = run("check", str(folder), "--sandbox", "process")
    assert json.loads(out)["outcome"] == "script_error" and json.loads(out)["score"] is None
    assert "broken" in status and "no luck" in status
    (tmp_path / "action").write_text("Action: Undo")
    status, out = run("step", str(folder), "--action", str(tmp_path / "action"), "--sandbox", "process")
    assert "no luck" in status and not out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "diabtes"], "did you mean diabetes"),
        (["step", "wine", "--action", "/nowhere/action"], "/nowhere/action cannot be read"),
        (["check", "wine", "--sandbox", "chroot"], 2),
        (["fly"], 2),
    ],
)
def test_command_with_bad_input(run, arguments, message):
    status, out = run(*arguments)
    assert message == status or message in status
    assert not out


@pytest.fixture
def folder(run, tmp_path):
    """A new task, as the template has it."""
    assert run("new", str(tmp_path / "mine"))[0] == 0
    return tmp_path / "mine"


def change(file, old: str, new: str) -> None:
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_a_new_task_is_accepted_and_its_best_is_as_stated(run, folder):
    status, out = run("check", str(folder), "--sandbox", "process")
    assert status == 0 and json.loads(out)["task"] == "mine" and json.loads(out)["problems"] == []
    status, out = run("best", str(folder), "--sandbox", "process")
    assert status == 0 and json.loads(out)["agrees"]
    status, _ = run("new", str(folder))
    assert f"{folder} exists" in status


@pytest.mark.parametrize(
    ("file", "old", "new", "found"),
    [
        ("task.yaml", "direction: minimize ", "direction: maximize ", "MAE is one to minimize"),
        ("task.yaml", "best: 46.31983", "best: 80", "best = 80 is no better than the baseline's"),
        ("task.yaml", "seconds: 10 ", "seconds: 0.01 ", "ran past limits.seconds = 0.01"),
        ("env/train.py", "random_state=0", "splitter='random'", "fix its random_state"),
        ("env/train.py", "model.fit(X, y)", "model.fit(X, y); hold = [bytearray(64 << 20) for _ in range(48)]",
         "limits.memory_mb"),
        ("env/train.py", "model.fit(X, y)", "model.fit(X)", "got no score (script_error)"),
        ("scripts/prepare.py", '"target")', '"target"); import shutil; shutil.copy("answers.csv", "../env/a.csv")',
         "env/a.csv is a copy of scripts/answers.csv"),
        ("scripts/prepare.py", '"target")', '"target")\nimport pandas\nanswers = pandas.read_csv("answers.csv")\n'
         'pandas.read_csv("../env/test.csv").merge(answers).to_csv("../env/test.csv", index=False)',
         "env/test.csv has the column 'target' of scripts/answers.csv"),
        ("scripts/eval.py", 'read_submission(submission_folder, answers, ["prediction"])',
         '__import__("pandas").read_csv(submission_folder + "/submission.csv").head(len(answers))',
         "when rows are in another order"),
    ],
)  # fmt: skip
def test_what_authors_get_wrong_is_found(run, folder, file, old, new, found):
    change(folder / file, old, new)
    stated = folder / "task.yaml"  # memory that is soon filled, and time enough for it on a busy machine
    stated.write_text(stated.read_text().replace("  seconds: 10 ", "  memory_mb: 512\n  seconds: 60 "))
    status, out = run("check", str(folder), "--sandbox", "process")
    assert any(found in problem for problem in json.loads(out)["problems"]), out
    assert found in status


def test_a_grader_that_takes_anything_is_found(run, folder):
    (folder / "scripts/eval.py").write_text("def get_score(folder):\n    return 50.0\n")
    status, _ = run("check", str(folder), "--sandbox", "process")
    assert status.count("scripts/eval.py scores a submission") == 3


def test_a_best_that_does_not_come_out_is_told(run, folder):
    change(folder / "task.yaml", "best: 46.31983", "best: 44")
    status, out = run("best", str(folder), "--sandbox", "process")
    assert "task.yaml states best: 44" in status and not json.loads(out)["agrees"]
    (folder / "scripts/best.py").unlink()
    status, out = run("best", str(folder), "--sandbox", "process")
    assert "has no scripts/best.py" in status and not out


def test_a_task_at_a_lower_fidelity_has_a_start_of_its_own(run, folder):
    status, out = run("check", f"{folder}@0.2", "--sandbox", "process")
    assert status == 0 and json.loads(out)["task"] == "mine@0.2"
    assert json.loads(out)["score"] != json.loads(run("check", str(folder), "--sandbox", "process")[1])["score"]
    change(folder / "task.yaml", "rows: [train.csv] ", "rows: [] ")
    assert "names no files as `rows`" in run("check", f"{folder}@0.2", "--sandbox", "process")[0]
