"""Variants of a task, derived from its tables offline: what `python -m envs vary` makes, tries and keeps.

A variant has other rows, columns, another target, metric or starting script than its task, or cells that are missing,
noisy or far out; it shares rows with its task. Invariants: task, seed and number determine a variant; it is kept only
if the checks of `python -m envs check` find nothing to mend and a model that was tried beats its start by `LEAST_GAIN`;
it has the split of its task, so that nothing of a held-out task is ever trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from envs.benchmarks.loader import load
from envs.benchmarks.task_file import TaskError
from envs.check import problems
from envs.environment import Environment
from envs.experiments import SandboxRunner
from envs.records import Direction, StepResult, Task
from envs.sandbox import SandboxPool
from envs.workspace import SnapshotStore

FEWEST_ROWS, MOST_ROWS = 120, 4000
LEAST_GAIN = 0.02
"""Of a tried model over the start, relative to it: with less there is nothing to learn."""
CLASSES = 10
"""A column of at most so many values, none of them rare, is one of classes."""
CORRUPTIONS = ("none", "none", "missing", "noise", "outliers")
METRICS: Mapping[str, Mapping[str, tuple[str, Direction]]] = {
    "classes": {
        "accuracy": ("accuracy_score", Direction.MAXIMIZE),
        "balanced accuracy": ("balanced_accuracy_score", Direction.MAXIMIZE),
    },
    "number": {
        "RMSE": ("root_mean_squared_error", Direction.MINIMIZE),
        "MAE": ("mean_absolute_error", Direction.MINIMIZE),
        "R2": ("r2_score", Direction.MAXIMIZE),
    },
}
"""Kind of target → metric → scikit-learn's function, direction."""
STARTS = {
    "classes": (
        ("sklearn.dummy", "DummyClassifier()"), ("sklearn.tree", "DecisionTreeClassifier(max_depth=1, random_state=0)"),
        ("sklearn.neighbors", "KNeighborsClassifier(n_neighbors=40)"), ("sklearn.naive_bayes", "GaussianNB()"),
    ),
    "number": (
        ("sklearn.dummy", "DummyRegressor()"), ("sklearn.tree", "DecisionTreeRegressor(max_depth=1, random_state=0)"),
        ("sklearn.neighbors", "KNeighborsRegressor(n_neighbors=40)"),
        ("sklearn.linear_model", "Lasso(alpha=10)"),
    ),
}  # fmt: skip
TRIED = {
    "classes": (
        ("sklearn.ensemble", "RandomForestClassifier(n_estimators=100, random_state=0)"),
        ("sklearn.ensemble", "HistGradientBoostingClassifier(max_iter=60, random_state=0)"),
        ("sklearn.linear_model", "LogisticRegression(max_iter=1000)"),
    ),
    "number": (
        ("sklearn.ensemble", "RandomForestRegressor(n_estimators=100, random_state=0)"),
        ("sklearn.ensemble", "HistGradientBoostingRegressor(max_iter=60, random_state=0)"),
        ("sklearn.linear_model", "RidgeCV(alphas=[0.1, 1, 10, 100])"),
    ),
}
START = """import pandas as pd
from {module} import {name}

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
y = train["target"]
columns = [name for name in test.select_dtypes("number").columns if name != "id"]
X, X_test = train[columns].fillna(0), test[columns].fillna(0)

model = {model}
model.fit(X, y)

prediction = model.predict(X_test)
pd.DataFrame({{"id": test["id"], "prediction": prediction}}).to_csv("submission.csv", index=False)
"""
STRONG = """import pandas as pd
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from {module} import {name}

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
y = train["target"]
both = pd.concat([train.drop(columns=["target"]), test]).drop(columns=["id"]).reset_index(drop=True)
few = [name for name in both if not pd.api.types.is_numeric_dtype(both[name]) and both[name].nunique() <= 20]
both = pd.get_dummies(both, columns=few)
both = both.astype({{name: float for name in both if both[name].dtype == bool}}).select_dtypes("number")
both = both.clip(both.quantile(0.005), both.quantile(0.995), axis=1).fillna(both.median())
X, X_test = both[: len(train)], both[len(train) :]

model = make_pipeline(StandardScaler(), {model})
model.fit(X, y)

prediction = model.predict(X_test)
pd.DataFrame({{"id": test["id"], "prediction": prediction}}).to_csv("submission.csv", index=False)
"""
GRADER = """from sklearn.metrics import {function}

from envs.grading import read_answers, read_submission


def get_score(submission_folder):
    answers = read_answers(__file__)
    submission = read_submission(submission_folder, answers, ["prediction"])
    return {function}(answers["target"], submission["prediction"])
"""


@dataclass(frozen=True)
class Variant:
    """How a variant differs from its task."""

    target: str
    """Column of the task's table; `target` is the task's own."""
    kind: str
    """`classes` or `number`."""
    metric: str
    columns: tuple[str, ...]
    rows: int
    corruption: str
    start: tuple[str, str]
    """Module and call of the model that the script starts from."""

    def told(self, task: Task) -> str:
        """The problem, as prompts have it."""
        what = "the target of that task" if self.target == "target" else f"its column {self.target}"
        return (
            f"The table is that of another task: {task.problem.splitlines()[0] if task.problem else task.id}\n"
            f"Predict {what}, which is called target here, for each row of test.csv. It is "
            f"{'one of some classes' if self.kind == 'classes' else 'a number'}; the score is {self.metric}."
        )


def table_of(task: Task) -> pd.DataFrame:
    """All rows of the task, with their targets and without ids.

    Raises:
        TaskError: it has not the three tables that `envs.splits.write_split` writes.
    """
    files = (task.env_dir / "train.csv", task.env_dir / "test.csv", task.private_dir / "answers.csv")
    if not all(file.is_file() for file in files):
        raise TaskError(f"task {task.id} cannot be varied: it has no train.csv, test.csv and answers.csv")
    train, test, answers = (pd.read_csv(file, low_memory=False) for file in files)
    if not {"id", "target"} <= set(train) or not {"id"} <= set(test) or set(answers) != {"id", "target"}:
        raise TaskError(f"task {task.id} cannot be varied: its tables must have the columns id and target, and no more")
    if task.fidelity < 1:
        raise TaskError(f"task {task.id} cannot be varied at a fidelity: give it without one")
    both = pd.concat([train, test.merge(answers, on="id")]).drop(columns="id").reset_index(drop=True)
    return both.dropna(subset=["target"]).reset_index(drop=True)


def drawn(table: pd.DataFrame, seed: int, number: int) -> Variant:
    """The variant of that number."""
    rng = np.random.default_rng([seed, number])
    targets = {name: kind for name in table if (kind := _kind(table[name]))}
    others = [name for name in targets if name != "target"]
    target = "target" if not others or ("target" in targets and rng.random() < 0.4) else str(rng.choice(others))
    if target not in targets:
        raise TaskError("no column of the table can be a target: none is of numbers or of a few classes")
    kind = targets[target]
    columns = [name for name in table if name != target]
    kept = max(min(2, len(columns)), round(len(columns) * rng.uniform(0.5, 1.0)))
    chosen = set(rng.permutation(len(columns))[:kept])
    rows = min(len(table), MOST_ROWS)
    return Variant(
        target, kind, str(rng.choice(list(METRICS[kind]))),
        tuple(name for place, name in enumerate(columns) if place in chosen),
        max(min(rows, FEWEST_ROWS), round(rows * rng.uniform(0.5, 1.0))),
        str(rng.choice(CORRUPTIONS)), STARTS[kind][rng.integers(len(STARTS[kind]))],
    )  # fmt: skip


def write(folder: Path, task: Task, variant: Variant, seed: int, number: int) -> None:
    """The variant's folder, as docs/tasks.md describes one; without a best solution."""
    rng = np.random.default_rng([seed, number, 1])
    rows = table_of(task).dropna(subset=[variant.target])
    rows = rows.iloc[rng.permutation(len(rows))[: variant.rows]].reset_index(drop=True)
    features = _corrupted(rows[list(variant.columns)].rename(columns={"target": "outcome"}), variant.corruption, rng)
    whole = pd.concat([pd.Series(range(len(rows)), name="id"), features], axis=1).assign(target=rows[variant.target])
    test, train = whole.head(len(whole) // 2), whole.iloc[len(whole) // 2 :]
    function, direction = METRICS[variant.kind][variant.metric]
    module, model = variant.start
    kinds = {"missing": " Some cells are empty.", "outliers": " Some values are far out.", "noise": ""}
    texts = {
        "env/train.py": START.format(module=module, name=model.partition("(")[0], model=model),
        "env/task_descriptor.txt": "train.csv has id, the features and target; test.csv has id and the features."
        f"{kinds.get(variant.corruption, '')}\nsubmission.csv must have the columns id and prediction, a row for each "
        "row of test.csv.\n",
        "scripts/research_problem.txt": f"{variant.told(task)}\n",
        "scripts/eval.py": GRADER.format(function=function),
    }
    for name in ("env", "scripts"):
        (folder / name).mkdir(parents=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    train.to_csv(folder / "env/train.csv", index=False)
    test.drop(columns="target").to_csv(folder / "env/test.csv", index=False)
    test[["id", "target"]].to_csv(folder / "scripts/answers.csv", index=False)
    _state(folder, {
        "metric": variant.metric, "direction": str(direction), "split": task.split, "rows": ["train.csv"],
        "origin": f"variant {number} of {task.id} with seed {seed}", "licence": f"that of the data of {task.id}",
        "limits": {"seconds": max(20.0, task.limits.seconds)},
    })  # fmt: skip


def tried(folder: Path, variant: Variant, sandboxes: SandboxPool, capacity: Any) -> tuple[dict[str, Any], list[str]]:
    """Measure the variant and look for a better solution, which becomes scripts/best.py and `best` in task.yaml.

    Returns `score` of its start and `best`, and what is wrong with the variant.
    """
    task = load(folder.resolve())
    first, again = (_baseline(task, SandboxRunner(sandboxes, capacity, seed)) for seed in (0, 1))
    if first.score_after is None:
        return {}, [f"its start got no score ({first.outcome})"]
    runner = SandboxRunner(sandboxes, capacity)
    found = []
    for module, model in TRIED[variant.kind]:
        script = STRONG.format(module=module, name=model.partition("(")[0], model=model)
        score = runner.run(task, {task.script: script}).score
        if score is not None:
            found.append((task.direction.sign * score, score, script))
    if not found:
        return {}, ["no model that was tried got a score"]
    _, best, script = max(found)
    scores = {"score": first.score_after, "best": best}
    gain = task.direction.sign * (best - first.score_after)
    if gain < LEAST_GAIN * max(abs(first.score_after), LEAST_GAIN):
        return scores, ["no model that was tried is clearly better than its start"]
    (folder / "scripts/best.py").write_text(script, encoding="utf-8")
    _state(folder, {"best": best, "best_from": "scripts/best.py, the best of three models that were tried"})
    return scores, problems(replace(load(folder.resolve()), m_init=first.score_after), first, again, sandboxes)


def variants(task: Task, seed: int) -> Iterator[tuple[int, Variant]]:
    """All of them, without end."""
    table, number = table_of(task), 0
    while True:
        yield number, drawn(table, seed, number)
        number += 1


def _baseline(task: Task, runner: SandboxRunner) -> StepResult:
    return Environment({task.id: task}, runner, SnapshotStore("memory://snapshots")).baseline(task.id)


def _kind(column: pd.Series) -> str | None:
    """What kind of target a column would be; None if it can be none."""
    known = column.dropna()
    if len(known) < FEWEST_ROWS:
        return None
    counts = known.value_counts()
    if 2 <= len(counts) <= CLASSES and counts.min() >= 0.05 * len(known):
        return "classes"
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    return "number" if numeric and len(counts) > 2 * CLASSES else None


def _corrupted(features: pd.DataFrame, how: str, rng: np.random.Generator) -> pd.DataFrame:
    numeric = list(features.select_dtypes("number"))
    if how == "noise":
        noise = rng.normal(size=(len(features), 3))
        return pd.concat([features, pd.DataFrame(noise, columns=[f"extra_{i}" for i in range(3)])], axis=1)
    if how in ("missing", "outliers") and numeric:
        changed = features.astype(dict.fromkeys(numeric, float))
        hit = rng.random((len(features), len(numeric))) < (0.1 if how == "missing" else 0.01)
        values = changed[numeric].to_numpy(copy=True)
        values[hit] = np.nan if how == "missing" else 100 * values[hit]
        changed[numeric] = values
        return changed
    return features


def _state(folder: Path, keys: Mapping[str, Any]) -> None:
    """Add keys to task.yaml."""
    file = folder / "task.yaml"
    stated = yaml.safe_load(file.read_text()) if file.exists() else {}
    file.write_text(yaml.safe_dump({**stated, **keys}, sort_keys=False), encoding="utf-8")
