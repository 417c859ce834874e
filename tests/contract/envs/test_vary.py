"""`python -m envs vary`: what is kept has been run, checked and beaten by a model that was tried."""

from __future__ import annotations

import json
import logging

import numpy as np
import pandas as pd
import pytest

from envs.__main__ import main
from envs.benchmarks.loader import about
from envs.sandbox import SandboxFailure, SandboxPool


def test_variants_that_are_kept_are_tasks_without_problems(tmp_path, monkeypatch, capsys, caplog):
    try:
        SandboxPool("process").close()
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the process sandbox is not to be had: {reason}")
    monkeypatch.setenv("MLAGENT_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"id": range(300), **{name: rng.normal(size=300) for name in "abcd"}})
    table["target"] = 5 * table["a"] + table["b"]  # and each column can be told from the others and it
    folder = tmp_path / "sums"
    for name, text in {
        "task.yaml": "metric: RMSE\ndirection: minimize\n", "env/train.py": "print()\n",
        "scripts/research_problem.txt": "Predict the sum.", "scripts/eval.py": "def get_score(folder): return 1.0\n",
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    table[:150].to_csv(folder / "env/train.csv", index=False)
    table[150:].drop(columns="target").to_csv(folder / "env/test.csv", index=False)
    table[150:][["id", "target"]].to_csv(folder / "scripts/answers.csv", index=False)
    caplog.set_level(logging.INFO)
    made = tmp_path / "made"
    asked = ["vary", str(folder), "--n", "1", "--seed", "5", "--out", str(made), "--sandbox", "process"]
    assert main(asked) == 0
    report = json.loads(capsys.readouterr().out)
    (kept,) = report["variants"]
    stated = about(kept["task"])
    assert stated.best == kept["best"] and stated.direction.sign * (kept["best"] - kept["score"]) > 0
    assert sorted(path.name for path in made.iterdir()) == [kept["task"].rpartition("/")[2]], "the others are deleted"
    assert f"tasks.held_in=[{kept['task']}]" in caplog.text
    assert main(asked) == 1 and "made exists: give the name of a new folder" in capsys.readouterr().err
