"""What prepare.py scripts divide: the parts are complete, and neither order nor ids of test rows tell their targets."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from envs.splits import write_parts, write_split

ROWS = 400


@pytest.fixture
def scripts(tmp_path, monkeypatch) -> Path:
    (tmp_path / "scripts").mkdir()
    monkeypatch.chdir(tmp_path / "scripts")
    return tmp_path / "scripts"


def parts(scripts: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    read = [pd.read_csv(file) for file in (scripts / "../env/train.csv", scripts / "../env/test.csv", "answers.csv")]
    return tuple(read)


def rank_correlation(values: pd.Series) -> float:
    return abs(float(np.corrcoef(np.arange(len(values)), values)[0, 1]))


def test_a_table_sorted_by_its_target_is_mixed(scripts):
    frame = pd.DataFrame({"x": np.arange(ROWS) * 2, "y": np.arange(ROWS)})
    write_split(frame, "y", test_share=0.25)
    train, test, answers = parts(scripts)
    assert (list(train), list(test), list(answers)) == (["id", "x", "target"], ["id", "x"], ["id", "target"])
    assert (len(train), len(test)) == (300, 100) and (test["id"] == answers["id"]).all()
    assert (test["x"] == 2 * answers["target"]).all() and (train["x"] == 2 * train["target"]).all()
    assert sorted([*train["target"], *answers["target"]]) == list(range(ROWS))
    assert len({*train["id"], *test["id"]}) == ROWS and (test["id"].diff().dropna() == 1).all()
    for part in (train["target"], answers["target"]):
        assert rank_correlation(part) < 0.2
    before = answers
    write_split(frame, "y", test_share=0.25)
    assert parts(scripts)[2].equals(before), "the same each time"


def test_parts_that_are_divided_already_stay_so_and_rows_to_predict_are_mixed(scripts):
    table = pd.DataFrame({"day": np.arange(ROWS), "a": np.arange(ROWS) * 1.5, "b": -np.arange(ROWS)})
    write_parts(table[:300], table[300:], ["a", "b"])
    train, test, answers = parts(scripts)
    assert list(train["day"]) == list(range(300)), "a series stays a series"
    assert list(test) == ["id", "day"] and list(answers) == ["id", "a", "b"]
    assert sorted(test["day"]) == list(range(300, ROWS)) and (answers["a"] == 1.5 * test["day"]).all()
    assert rank_correlation(test["day"]) < 0.3 and not set(train["id"]) & set(test["id"])
