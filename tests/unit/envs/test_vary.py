"""Variants of a task are determined by a seed, keep its split, and show none of their own answers."""

from __future__ import annotations

import filecmp
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from envs import vary
from envs.benchmarks.loader import TaskError, load
from envs.records import Task

ROWS = 400
COLUMNS = ["id", "kind", "score", "length", "target"]


@pytest.fixture
def task(tmp_path, monkeypatch) -> Task:
    """A held-out task on a table with a column of classes and two of numbers."""
    monkeypatch.setenv("MLAGENT_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    table = pd.DataFrame({
        "id": range(ROWS), "kind": rng.choice(["a", "b", "c"], ROWS), "score": rng.normal(size=ROWS),
        "length": rng.normal(size=ROWS),
    })  # fmt: skip
    table["target"] = 3 * table["score"] + (table["kind"] == "a")
    folder = tmp_path / "toy"
    for name, text in {
        "task.yaml": "metric: RMSE\ndirection: minimize\nsplit: held_out\n", "env/train.py": "print()\n",
        "scripts/research_problem.txt": "Predict y.", "scripts/eval.py": "def get_score(folder): return 1.0\n",
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    table[: ROWS // 2].to_csv(folder / "env/train.csv", index=False)
    table[ROWS // 2 :].drop(columns="target").to_csv(folder / "env/test.csv", index=False)
    table[ROWS // 2 :][["id", "target"]].to_csv(folder / "scripts/answers.csv", index=False)
    return load(folder)


def written(task: Task, folder: Path, seed: int, count: int) -> list[vary.Variant]:
    found = list(islice(vary.variants(task, seed), count))
    for number, variant in found:
        vary.write(folder / f"v{number}", task, variant, seed, number)
    return [variant for _, variant in found]


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_a_seed_gives_the_same_variants_and_another_gives_others(task, tmp_path):
    first, again = (written(task, tmp_path / name, 3, 12) for name in ("first", "again"))
    assert first == again and first != [variant for _, variant in islice(vary.variants(task, 4), 12)]
    names = files(tmp_path / "first")
    same, differ, lacking = filecmp.cmpfiles(tmp_path / "first", tmp_path / "again", names, shallow=False)
    assert sorted(same) == names == files(tmp_path / "again") and not differ + lacking
    for what in ("target", "metric", "corruption", "start", "columns", "rows"):
        assert len({getattr(variant, what) for variant in first}) > 1, f"{what} is varied"


def test_a_variant_is_a_task_of_the_same_split_that_shows_no_answer(task, tmp_path):
    for number, variant in enumerate(written(task, tmp_path / "made", 0, 12)):
        made = load(tmp_path / "made" / f"v{number}")
        assert made.split == "held_out" and made.parts, made.undivided
        train, test = (pd.read_csv(made.env_dir / name) for name in ("train.csv", "test.csv"))
        answers = pd.read_csv(made.private_dir / "answers.csv")
        assert len(train) + len(test) == variant.rows and not set(train["id"]) & set(test["id"])
        assert list(test["id"]) == list(answers["id"]) and "target" not in test and variant.target not in test
        direction = vary.METRICS[variant.kind][variant.metric][1]
        assert (made.metric, made.direction) == (variant.metric, direction)
        assert variant.metric in made.problem and "Predict y." in made.problem
        compile((made.env_dir / "train.py").read_text(), "train.py", "exec")


def test_corrupted_cells_are_as_many_as_they_should_be():
    features = pd.DataFrame(np.ones((1000, 4)), columns=list("abcd")).assign(text="x")
    changed = {how: vary._corrupted(features, how, np.random.default_rng(0)) for how in vary.CORRUPTIONS}
    assert changed["none"].equals(features) and changed["noise"].shape == (1000, 8)
    assert 0.07 < changed["missing"][list("abcd")].isna().to_numpy().mean() < 0.13
    assert 0.003 < (changed["outliers"][list("abcd")] > 1).to_numpy().mean() < 0.03


def test_a_task_without_such_tables_is_refused(task):
    with pytest.raises(TaskError, match="at a fidelity"):
        vary.table_of(replace(task, fidelity=0.5))
    (task.private_dir / "answers.csv").write_text("id,a,b\n1,2,3\n")
    with pytest.raises(TaskError, match="must have the columns id and target"):
        vary.table_of(task)
    (task.private_dir / "answers.csv").unlink()
    with pytest.raises(TaskError, match=r"no train\.csv, test\.csv and answers\.csv"):
        vary.table_of(task)
