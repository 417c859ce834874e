"""MLE-bench competitions as tasks: with the package's own graders where it is installed, and with a stand-in of it.

The stand-in has the package's interface (registry, graders, leaderboards) and one competition of its own.
"""

import importlib.util
import json
import shutil
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from envs.admission import node_capacity
from envs.benchmarks import mlebench
from envs.benchmarks.loader import TaskError, load
from envs.experiments import SandboxRunner
from envs.grading import grade, medal
from envs.records import Direction, Outcome, Withheld
from envs.sandbox import SandboxFailure, SandboxPool
from tests.contract.envs.benchmarks.mlebench_shapes import SHAPES

STAND_IN = {
    "__init__.py": "",
    "utils.py": """
        import pandas as pd

        def read_csv(path):
            return pd.read_csv(path, float_precision="round_trip")

        load_answers = read_csv
    """,
    "registry.py": """
        from pathlib import Path
        from types import SimpleNamespace

        HERE = Path(__file__).parent

        class InvalidSubmissionError(Exception):
            pass

        class Grader:
            name = "rmse"

            def is_lower_better(self, leaderboard):
                return bool(leaderboard["score"].iloc[0] < leaderboard["score"].iloc[-1])

            def rank_score(self, score, leaderboard):
                scores = leaderboard["score"]
                return {f"{medal}_threshold": scores.iloc[i] for i, medal in enumerate(("gold", "silver", "bronze"))}

            def grade_fn(self, submission, answers):
                if len(submission) != len(answers):
                    raise InvalidSubmissionError("rows are missing")
                both = answers.merge(submission, on="id", suffixes=("", "_given"))
                return float(((both["y"] - both["y_given"]) ** 2).mean() ** 0.5)

        class Registry:
            def __init__(self, data=HERE / "data"):
                self._data = Path(data)

            def set_data_dir(self, data):
                return Registry(data)

            def list_competition_ids(self):
                return ["line-fit"]

            def get_competition(self, name):
                prepared = self._data / name / "prepared"
                return SimpleNamespace(
                    id=name, description="Predict y from x.", grader=Grader(), public_dir=prepared / "public",
                    private_dir=prepared / "private", answers=prepared / "private" / "test.csv",
                    sample_submission=prepared / "public" / "sample_submission.csv",
                    leaderboard=HERE / "leaderboard.csv",
                )

        registry = Registry()
    """,
    "leaderboard.csv": "score\n0.5\n1.0\n2.0\n40.0\n",
}
ROWS = 140
BETTER = """
import numpy as np
import pandas as pd

train, test = pd.read_csv("train.csv"), pd.read_csv("test.csv")
slope, start = np.polyfit(train["x"], train["y"], 1)
test["y"] = slope * test["x"] + start + {error}
test[["id", "y"]].to_csv("submission.csv", index=False)
"""


@pytest.fixture(scope="module")
def sandboxes():
    try:
        pool = SandboxPool("process")
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the process sandbox is not to be had: {reason}")
    yield pool
    pool.close()


@pytest.fixture
def runner(sandboxes):
    return SandboxRunner(sandboxes, node_capacity())


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """The stand-in, with a prepared competition."""
    for name, text in STAND_IN.items():
        (tmp_path / "packages/mlebench" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "packages/mlebench" / name).write_text(textwrap.dedent(text))
    prepared = tmp_path / "data/line-fit/prepared"
    x = np.arange(ROWS, dtype=float)
    table = pd.DataFrame({"id": np.arange(ROWS), "x": x, "y": 3 * x + 1})
    for folder in ("public", "private"):
        (prepared / folder).mkdir(parents=True)
    table[:40].to_csv(prepared / "public/train.csv", index=False)
    table[40:].drop(columns="y").to_csv(prepared / "public/test.csv", index=False)
    table[40:].assign(y=0.0)[["id", "y"]].to_csv(prepared / "public/sample_submission.csv", index=False)
    table[40:].to_csv(prepared / "private/test.csv", index=False)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    forget()
    monkeypatch.setenv("MLEBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MLAGENT_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "data"
    forget()


def forget() -> None:
    """The next test imports another package of that name."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlebench"]:
        del sys.modules[name]


def limited(task):
    import dataclasses

    return dataclasses.replace(task, limits=dataclasses.replace(task.limits, cpus=1, memory_mb=1024, disk_mb=64))


def test_a_competition_is_a_task_with_its_own_grader_and_medals(data, runner):
    task = limited(load("mlebench:line-fit"))
    assert (task.id, task.metric, task.direction, task.m_best) == ("line-fit", "rmse", Direction.MINIMIZE, 0.5)
    assert task.problem == "Predict y from x." and task.medals == (("gold", 0.5), ("silver", 1.0), ("bronze", 2.0))
    assert not list(task.env_dir.rglob("private*")) and "y" not in pd.read_csv(task.env_dir / "test.csv")
    start = runner.run(task, {})
    official = np.sqrt(((3 * np.arange(40.0, ROWS) + 1) ** 2).mean())
    assert start.outcome is Outcome.EDITED and start.withheld.whole == round(official, 5)
    both = [start.score, start.withheld.test]
    assert both == pytest.approx([official] * 2, rel=0.02) and official not in both and both[0] != both[1]
    better = runner.run(task, {"train.py": BETTER.format(error=1.5)})
    assert (better.score, better.withheld) == (pytest.approx(1.5), Withheld(pytest.approx(1.5), pytest.approx(1.5)))
    assert [medal(task, score) for score in (0.4, 0.5, 0.9, 1.5, 2.1)] == ["gold", "gold", "silver", "bronze", None]


def test_what_the_grader_refuses_is_a_script_error_with_its_reason(data, runner):
    task = limited(load("mlebench:line-fit"))
    short = BETTER.format(error=0).replace('test[["id", "y"]]', 'test[["id", "y"]][:3]')
    result = runner.run(task, {"train.py": short})
    assert result.outcome is Outcome.SCRIPT_ERROR and "rows are missing" in result.log


def test_new_data_makes_a_new_task(data):
    before = load("mlebench:line-fit")
    assert load("mlebench:line-fit") == before
    answers = data / "line-fit/prepared/private/test.csv"
    answers.write_text(answers.read_text().replace("418.0", "419.0"))
    assert load("mlebench:line-fit").digest != before.digest
    (data / "line-fit/prepared/public/more.csv").write_text("id\n1\n")
    after = load("mlebench:line-fit")
    assert after.digest != before.digest and "more.csv" in after.read_only


def test_what_is_missing_is_named(data, monkeypatch):
    with pytest.raises(TaskError, match="no competition 'line-fti': choose one of line-fit"):
        load("mlebench:line-fti")
    (data / "line-fit/prepared/private/test.csv").unlink()
    with pytest.raises(TaskError, match="mlebench prepare -c line-fit"):
        load("mlebench:line-fit")


@pytest.mark.parametrize("private", [False, True])
def test_a_sample_submission_beside_the_answers_is_what_the_script_starts_from(data, private):
    """Five competitions keep the file there and show it in an archive."""
    prepared = data / "line-fit/prepared"
    if private:
        (prepared / "public/sample_submission.csv").rename(prepared / "private/sample_submission.csv")
        registry = data.parent / "packages/mlebench/registry.py"
        registry.write_text(registry.read_text().replace('"public" / "sample', '"private" / "sample'))
    task = load("mlebench:line-fit")
    assert pd.read_csv(task.env_dir / "sample_submission.csv")["y"].eq(0).all() and task.parts
    assert 'read_csv("sample_submission.csv")' in (task.env_dir / "train.py").read_text().replace("'", '"')
    assert "sample_submission.csv" in task.read_only and not list(task.env_dir.rglob("answers*"))


def test_a_leaderboard_that_was_not_fetched_says_so(data):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:e071\nsize 125841\n"
    (data.parent / "packages/mlebench/leaderboard.csv").write_text(pointer)
    with pytest.raises(
        TaskError, match=r"leaderboard\.csv is a Git LFS pointer, .*: install git-lfs, then pip install"
    ):
        load("mlebench:line-fit")


def test_a_package_that_a_grader_lacks_is_named(data):
    registry = data.parent / "packages/mlebench/registry.py"
    registry.write_text(registry.read_text().replace("prepared = self", "import Levenshtein_\n        prepared = self"))
    with pytest.raises(TaskError, match=r"line-fit needs a package that is not installed \(No module named 'Leven"):
        load("mlebench:line-fit")


@pytest.mark.skipif(importlib.util.find_spec("mlebench") is not None, reason="the package is installed")
def test_without_the_package_the_message_says_how_to_install_it():
    with pytest.raises(TaskError, match="pip install git"):
        load("mlebench:spaceship-titanic")


@pytest.fixture
def real_package(tmp_path, monkeypatch) -> Path:
    """A copy of the installed package, with leaderboards where it has Git LFS pointers only."""
    found = importlib.util.find_spec("mlebench")
    if found is None:
        pytest.skip("NOT TESTED: the package mlebench, which is not on PyPI, is not installed")
    shutil.copytree(Path(found.origin).parent, tmp_path / "packages/mlebench")
    for leaderboard in (tmp_path / "packages/mlebench/competitions").glob("*/leaderboard.csv"):
        leaderboard.write_text(STAND_IN["leaderboard.csv"])
    monkeypatch.syspath_prepend(tmp_path / "packages")
    forget()
    monkeypatch.setenv("MLEBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MLAGENT_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "data"
    forget()


@pytest.mark.parametrize("name", SHAPES)
def test_the_real_graders_score_the_sample_submission(name, real_package):
    """All of them, on stand-ins in the form in which the package prepares data; which need all answers is known."""
    from mlebench.registry import registry
    from mlebench.utils import load_answers, read_csv

    if name in mlebench.REFUSED:
        with pytest.raises(TaskError, match=f"mlebench:{name} cannot be graded here: "):
            load(f"mlebench:{name}")
        return
    competition = registry.set_data_dir(real_package).get_competition(name)
    answers, sample = SHAPES[name](np.random.default_rng(0), name)
    for folder in (competition.public_dir, competition.private_dir):
        folder.mkdir(parents=True)
    if competition.answers.suffix == ".jsonl":
        competition.answers.write_text("".join(json.dumps(record) + "\n" for record in answers))
    else:
        answers.to_csv(competition.answers, index=False)
    sample.to_csv(competition.sample_submission, index=False)
    task = load(f"mlebench:{name}")
    shutil.copyfile(task.env_dir / competition.sample_submission.name, real_package / "submission.csv")
    score, withheld, _ = grade(task, real_package)
    tables = read_csv(real_package / "submission.csv"), load_answers(competition.answers)
    assert withheld.whole == competition.grader(*tables), "the figure that medals are given for, whatever the parts"
    assert np.isfinite([score, withheld.test, withheld.whole]).all()
    whole = mlebench.NEED_ALL | {"tensorflow2-question-answering", "uw-madison-gi-tract-image-segmentation"}
    assert (task.parts is None) == (name in whole), task.undivided
