"""Published task packages as tasks: small ones of exactly their form, graded by their own graders.

The form was read from OpenMLE-Gym/examples/real-run-3-concurrency/task_package/titanic of github.com/FrontisAI/OpenRSI,
from mledojo/competitions/titanic and prepare/mle.py of github.com/MLE-Dojo/MLE-Dojo, and from examples/deepresearch/
DATA.md and deepresearch_tools.py (`SynScoreTool`) of github.com/Tonyzhou98/SandMLE.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from envs.benchmarks.loader import TaskError, load
from envs.grading import GradeError, grade
from envs.records import Direction, Task

ROWS = 60
OPENMLE = """
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import mean_absolute_error


class PriceMetrics:
    def __init__(self, value: str = "price", higher_is_better: bool = False):
        self.higher_is_better = higher_is_better
        self.value = value

    def evaluate(self, y_true: pd.DataFrame = None, y_pred: pd.DataFrame = None) -> float:
        merged = pd.merge(y_true, y_pred, on="Id", suffixes=("_true", "_pred"))
        return float(mean_absolute_error(merged["price_true"], merged["price_pred"]))

    def validate_submission(self, submission: Any, ground_truth: Any) -> str:
        if set(submission["Id"]) != set(ground_truth["Id"]):
            raise Exception("The set of Ids in submission does not match.")
        return "Submission is valid."
"""
MLEDOJO = """
from typing import Any
import pandas as pd
import numpy as np
from mledojo.metrics.base import CompetitionMetrics, InvalidSubmissionError

class ShipMetrics(CompetitionMetrics):
    def __init__(self, value: str = "Survived", higher_is_better: bool = True):
        super().__init__(higher_is_better)
        self.value = value

    def evaluate(self, y_true: pd.DataFrame, y_pred: pd.DataFrame) -> float:
        y_true["Id"] = y_true["Id"].astype(str)
        y_pred["Id"] = y_pred["Id"].astype(str)
        y_true = y_true.sort_values(by="Id").reset_index(drop=True)
        y_pred = y_pred.sort_values(by="Id").reset_index(drop=True)
        return np.mean(y_true[self.value] == y_pred[self.value])

    def validate_submission(self, submission: Any, ground_truth: Any) -> str:
        if len(submission) != len(ground_truth):
            raise InvalidSubmissionError("Number of rows in submission does not match ground truth.")
        return "Submission is valid."
"""
PREPARE = """
from pathlib import Path
import shutil
import pandas as pd


def prepare(raw: Path, public: Path, private: Path):
    table = pd.read_csv(raw / "train.csv")
    table[60:].to_csv(public / "train.csv", index=False)
    table[:60].drop(columns="price").to_csv(public / "test.csv", index=False)
    table[:60][["Id", "price"]].to_csv(private / "test_answer.csv", index=False)
    table[:60][["Id"]].assign(price=0.0).to_csv(public / "sample_submission.csv", index=False)
    (public / "description.txt").write_text("# Prices of houses")
    shutil.rmtree(raw)
"""
EVALUATOR = """
import argparse
import json
import os
import sys
import pandas as pd

parser = argparse.ArgumentParser()
parser.add_argument("--submission_path", required=True)
arguments = parser.parse_args()
truth = pd.read_csv("answer.csv")
guess = pd.read_csv(arguments.submission_path)
if list(guess.columns) != ["id", "yield"]:
    print("columns must be id and yield", file=sys.stderr)
    sys.exit(1)
both = truth.merge(guess, on="id", suffixes=("", "_guess"))
if len(both) != len(truth):
    raise ValueError("rows are missing")
error = float((both["yield"] - both["yield_guess"]).abs().mean())
print(json.dumps({"score": error, "is_lower_better": True, "gold_threshold": 1.0, "silver_threshold": 2.0,
                  "bronze_threshold": 4.0, "median_threshold": 9.0}))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLAGENT_CACHE", str(tmp_path / "cache"))


def written(folder: Path, **files: str | pd.DataFrame) -> Path:
    """files: path, with __ for /, → text or table."""
    for name, content in files.items():
        file = folder / f"{name.replace('__', '/')}"
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            file.with_suffix(".py" if "import" in content else ".txt").write_text(textwrap.dedent(content))
        else:
            content.to_csv(file.with_suffix(".csv"), index=False)
    return folder


def houses() -> pd.DataFrame:
    area = np.arange(100.0)
    return pd.DataFrame({"Id": [f"h{i}" for i in range(100)], "area": area, "price": area**2 + 1})


def openmle(folder: Path) -> Path:
    table = houses()
    tested = table[:ROWS]
    return written(
        folder / "houses", data__public__train=table[ROWS:], data__public__test=tested.drop(columns="price"),
        data__public__sample_submission=tested[["Id"]].assign(price=0.0), data__public__description="# Prices",
        data__private__test_answer=tested[["Id", "price"]], utils__metric=OPENMLE, utils__prepare=PREPARE,
    )  # fmt: skip


def scored(task: Task, table: pd.DataFrame) -> tuple[float, float]:
    """On validation and test."""
    workspace = task.env_dir.parent / "workspace"
    workspace.mkdir(exist_ok=True)
    table.to_csv(workspace / "submission.csv", index=False)
    score, withheld, _ = grade(task, workspace)
    return score, withheld.test


def test_a_package_of_openmle_is_a_task_with_its_own_metric_on_both_parts(tmp_path, monkeypatch):
    openmle(tmp_path)
    monkeypatch.setenv("OPENMLE_DATA", str(tmp_path))
    task = load("openmle:houses")
    assert (task.id, task.metric, task.direction) == ("houses", "mean_absolute_error", Direction.MINIMIZE)
    assert task.problem == "# Prices" and task.m_best is None and task.rows == ("train.csv",)
    assert load(str(f"openmle:{tmp_path / 'houses'}@0.5")).fidelity == 0.5
    sample = pd.read_csv(task.env_dir / "sample_submission.csv")
    truth = houses()[:ROWS]
    validation, test = scored(task, sample)
    assert validation != test and np.mean([validation, test]) == pytest.approx(truth["price"].mean())
    assert scored(task, truth[["Id", "price"]]) == (0.0, 0.0)
    with pytest.raises(GradeError, match=r"refused: The set of Ids in submission does not match\."):
        scored(task, sample[1:])
    seen = {file.name for file in task.env_dir.rglob("*") if file.is_file()}
    assert seen == {"train.py", "train.csv", "test.csv", "sample_submission.csv", "description.txt"}


def test_data_that_is_not_there_is_made_of_raw_by_the_packages_own_script(tmp_path):
    package = written(tmp_path / "houses", raw__train=houses(), utils__metric=OPENMLE, utils__prepare=PREPARE)
    task = load(f"openmle:{package}")
    assert scored(task, houses()[:ROWS][["Id", "price"]]) == (0.0, 0.0) and task.problem == "# Prices of houses"
    assert (package / "raw/train.csv").is_file() and not (package / "data").exists(), "the package stays as it is"
    (package / "utils/prepare.py").write_text("def prepare(raw, public, private):\n    raise OSError('no space')\n")
    (package / "raw/more.csv").touch()
    with pytest.raises(TaskError, match=r"utils/prepare\.py failed:(.|\n)*no space"):
        load(f"openmle:{package}")


def test_a_competition_of_mledojo_needs_no_mledojo(tmp_path):
    package = openmle(tmp_path)
    answers = pd.DataFrame({"Id": range(ROWS), "Survived": np.arange(ROWS) % 2})
    written(
        package, utils__metric=MLEDOJO, data__private__test_answer=answers,
        data__public__sample_submission=answers.assign(Survived=0),
        data__private__private_leaderboard=pd.DataFrame({"rank": [1, 2], "score": [0.9, 0.8]}),
    )  # fmt: skip
    task = load(f"mledojo:{package}")
    assert (task.metric, task.direction, task.m_best) == ("score", Direction.MAXIMIZE, 0.9)
    assert scored(task, answers.assign(Survived=0)) == (0.5, 0.5) and scored(task, answers) == (1.0, 1.0)
    with pytest.raises(GradeError, match="refused: Number of rows in submission does not match"):
        scored(task, pd.concat([answers, answers[:1]]))


def sandmle(folder: Path) -> Path:
    table = pd.DataFrame({"id": range(100), "rain": np.arange(100.0), "yield": np.arange(100) / 2})
    public = "prepared__public__"
    package = written(folder / "crops_1", **{
        f"{public}train": table[ROWS:], f"{public}test": table[:ROWS].drop(columns="yield"),
        f"{public}sample_submission": table[:ROWS][["id"]].assign(**{"yield": 0.0}),
        f"{public}answer": table[:ROWS][["id", "yield"]], f"{public}evaluator": EVALUATOR,
    })  # fmt: skip
    (package / "prepared/public/description.md").write_text("Predict the yield.")
    return package


def test_a_task_of_sandmle_hides_its_answers_and_has_medals(tmp_path, monkeypatch):
    sandmle(tmp_path)
    monkeypatch.setenv("SANDMLE_SYN_DATA_ROOT", str(tmp_path))
    task = load("sandmle:crops_1")
    assert (task.direction, task.m_best, task.problem) == (Direction.MINIMIZE, 1.0, "Predict the yield.")
    assert task.medals == (("gold", 1.0), ("silver", 2.0), ("bronze", 4.0))
    assert not [file for file in task.env_dir.rglob("*") if file.name in ("answer.csv", "evaluator.py")]
    assert "yield" not in pd.read_csv(task.env_dir / "test.csv")
    truth = pd.DataFrame({"id": range(ROWS), "yield": np.arange(ROWS) / 2})
    assert scored(task, truth.assign(**{"yield": truth["yield"] + 3}).sample(frac=1)) == (3.0, 3.0)
    for wrong, reason in ((truth.assign(more=1), "columns must be id and yield"), (truth[1:], "rows are missing")):
        with pytest.raises(GradeError, match=f"refused: .*{reason}"):
            scored(task, wrong)


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        (OPENMLE.replace("def evaluate", "def score"), "must define one class with `evaluate`, not 0"),
        (
            OPENMLE.replace("higher_is_better: bool = False", "higher_is_better=None"),
            "PriceMetrics does not say which way is better: give",
        ),
        ("class A import", "is no Python"),
    ],
)
def test_a_metric_that_cannot_be_used_is_named(tmp_path, metric, reason):
    package = written(openmle(tmp_path), utils__metric=metric)
    with pytest.raises(TaskError, match=f"metric.py:? .*{reason}"):
        load(f"openmle:{package}")


def test_which_way_is_better_is_found_however_it_is_written(tmp_path):
    body = "    def evaluate(self, y_true, y_pred): return 1.0\n    def validate_submission(self, a, b): return ''\n"
    for number, text in enumerate((
        f"class M:\n    higher_is_better = False\n{body}",
        f"class M:\n    def __init__(self, *, higher_is_better=False): pass\n{body}",
        f"class M:\n    def __init__(self, value='x'):\n        self.higher_is_better = False\n{body}",
    )):  # fmt: skip
        package = openmle(tmp_path / str(number))
        (package / "utils/metric.py").write_text(text)
        assert load(f"openmle:{package}").direction is Direction.MINIMIZE


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("openmle:none", "set OPENMLE_DATA to the folder of the packages"),
        ("sandmle:{}", r"prepared/public/description\.md is missing: is the package whole"),
        ("mledojo:{}/houses", r"private/test_answer\.csv is missing: is the package whole"),
    ],
)
def test_a_package_that_is_not_whole_is_refused_with_what_is_missing(tmp_path, name, reason):
    (openmle(tmp_path) / "data/private/test_answer.csv").unlink()
    with pytest.raises(TaskError, match=reason):
        load(name.format(tmp_path))
