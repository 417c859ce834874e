"""What is wrong with a task, as its author can mend it: the checks of `python -m envs check`.

The unchanged script is run twice, and its submission is graded in altered forms. Invariant: a problem names what is
wrong and what to do; a task without problems may still be a poor one, but it can be trained on.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd

from envs.grading import MAX_BYTES, SUBMISSION, GradeError, grade, open_untrusted
from envs.records import Direction, Outcome, StepResult, Task
from envs.sandbox import SandboxPool
from envs.workspace import restore

UPWARDS = ("accuracy", "auc", "f1", "kappa", "qwk", "map@", "pearson", "spearman", "r2", "dice", "precision", "recall")
DOWNWARDS = ("rmse", "rmsle", "mcrmse", "mae", "mse", "log loss", "logloss", "smape", "error", "perplexity", "brier")
SLOW = 0.5
"""Share of the time limit that a baseline may take before it is called too slow for what improves on it."""
NAMED = re.compile(r"(?<![\w*./-])[\w-][\w./-]*\.(?:csv|tsv|jsonl?|parquet|feather|np[yz]|h5|pkl|zip|txt)\b(?!\*)")
"""A file that a description names."""
TYPO = 5, 0.8
"""Fewest characters of a metric's name, and least likeness to a known one, that make it a misspelling."""
LONG_SCRIPT = 6000
"""Characters of a script that leave little room in a prompt of two thousand tokens."""


def problems(task: Task, first: StepResult, again: StepResult, sandboxes: SandboxPool) -> list[str]:
    """What should be mended; first, again: two runs of the unchanged script that shared no cache."""
    found = [
        *_of_the_baseline(task, first), *_of_the_metric(task, first), *_of_the_folder(task), *_of_the_descriptor(task)
    ]  # fmt: skip
    if first.score_after is not None:
        if again.score_after != first.score_after:
            found.append(
                f"two runs of {task.script} scored {first.score_after} and {again.score_after}: fix its random_state, "
                "or every edit will look like a gain or a loss"
            )
        found += _of_the_grader(task, sandboxes) if not task.verifier else []
    return found


def _of_the_baseline(task: Task, run: StepResult) -> Iterator[str]:
    limits = task.limits
    if run.outcome is Outcome.TIMEOUT:
        yield f"{task.script} ran past limits.seconds = {limits.seconds:g}: raise it in task.yaml, or do less"
    elif run.outcome is Outcome.OUT_OF_MEMORY:
        yield f"{task.script} needs more than limits.memory_mb = {limits.memory_mb}: raise it in task.yaml, or use less"
    elif run.score_after is None:
        yield f"{task.script} got no score ({run.outcome}): {run.log_tail.splitlines()[-1] if run.log_tail else ''}"
    elif run.durations.execute > SLOW * limits.seconds:
        yield (
            f"{task.script} took {run.durations.execute:.1f} s of limits.seconds = {limits.seconds:g}: better models "
            "will time out; raise it in task.yaml"
        )


def _of_the_metric(task: Task, run: StepResult) -> Iterator[str]:
    name = task.metric.lower()
    usual = {Direction.MAXIMIZE: UPWARDS, Direction.MINIMIZE: DOWNWARDS}
    known = (*UPWARDS, *DOWNWARDS)
    fewest, likeness = TYPO
    if not any(word in name for word in known) and len(name) >= fewest:
        for near in difflib.get_close_matches(name, known, n=1, cutoff=likeness):
            yield f"metric is {task.metric!r}: did you mean {near!r}? Prompts tell the policy this name"
    against = Direction.MINIMIZE if task.direction is Direction.MAXIMIZE else Direction.MAXIMIZE
    if any(word in name for word in usual[against]) and not any(word in name for word in usual[task.direction]):
        yield f"direction is {task.direction}, but {task.metric} is one to {against}: correct task.yaml"
    elif task.m_best is not None and run.score_after is not None:
        gain = task.direction.sign * (task.m_best - run.score_after)
        if gain <= 0:
            yield (
                f"best = {task.m_best:g} is no better than the baseline's {run.score_after:g}, with direction "
                f"{task.direction}: one of the two is wrong in task.yaml"
            )


def _of_the_folder(task: Task) -> Iterator[str]:
    """Answers that the agent could read, and a script too long to be shown."""
    seen = {_digest(file): file for file in _files(task.env_dir)}
    for private in _files(task.private_dir):
        if private.suffix in (".py", ".txt"):
            continue
        if same := seen.get(_digest(private)):
            yield f"env/{same.relative_to(task.env_dir)} is a copy of scripts/{private.name}: the agent could read it"
        if private.suffix == ".csv":
            yield from _columns_shown(task, private)
    if (task.env_dir / SUBMISSION).exists():
        yield f"env/{SUBMISSION} exists: a script that writes nothing would be graded on it; delete it"
    if len((task.env_dir / task.script).read_text()) > LONG_SCRIPT:
        yield f"{task.script} is over {LONG_SCRIPT} characters: prompts show the whole of it, so make it shorter"


def _columns_shown(task: Task, private: Path) -> Iterator[str]:
    """Answer columns that stand beside the same ids in a file that the agent sees."""
    answers = pd.read_csv(private, keep_default_na=False)
    key = answers.columns[0]
    for file in _files(task.env_dir):
        if file.suffix != ".csv":
            continue
        shown = pd.read_csv(file, keep_default_na=False)
        if key in shown and not shown[key].duplicated().any() and set(answers[key]) & set(shown[key]):
            beside, which = answers[[key]].merge(shown, on=key), "for the same ids"
            told = answers[answers[key].isin(shown[key])].reset_index(drop=True)
        elif key not in shown and len(shown) == len(answers):
            beside, which, told = shown, "row by row", answers
        else:
            continue
        for column in answers.columns[1:]:
            for name in beside.columns.drop(key, errors="ignore"):
                if told[column].nunique() > 1 and _same(told[column], beside[name]):
                    named = f"the column {column!r}" if name == column else f"in its column {name!r} the {column!r}"
                    yield (
                        f"env/{file.relative_to(task.env_dir)} has {named} of scripts/{private.name} {which}: the "
                        "agent could read the answers; leave it out"
                    )


def _same(answers: pd.Series, shown: pd.Series) -> bool:
    """Whether both hold the same values in the same order, whatever they are read as."""
    return answers.equals(shown) or answers.astype(str).equals(shown.astype(str).rename(answers.name))


def _of_the_descriptor(task: Task) -> Iterator[str]:
    """Files that task_descriptor.txt names and that are not there, and tables that it says nothing of."""
    file = task.env_dir / "task_descriptor.txt"
    if task.verifier:  # the instruction of a task of Harbor says it all
        return
    if not file.is_file():
        yield "env/task_descriptor.txt is missing: it says what the files hold and what submission.csv must look like"
        return
    told = set(NAMED.findall(file.read_text(errors="replace")))
    there = {str(path.relative_to(task.env_dir)) for path in _files(task.env_dir)}
    names = {Path(name).name for name in there} | there | {SUBMISSION}
    for name in sorted(told - names):
        if Path(name).name not in names:
            yield f"env/task_descriptor.txt names {name}, which is not in env/: correct it"
    if told:
        tables = {name for name in there if "/" not in name and name.endswith((".csv", ".tsv", ".jsonl", ".parquet"))}
        for name in sorted(tables - told):
            yield f"env/task_descriptor.txt says nothing of env/{name}: the policy is told of data by it"


def _of_the_grader(task: Task, sandboxes: SandboxPool) -> Iterator[str]:
    """What the grader makes of submissions that are not as they should be; of all answers, whatever their parts."""
    task = replace(task, parts=None)
    with sandboxes.acquire(task) as sandbox:
        restore(task, {task.script: (task.env_dir / task.script).read_text()}, sandbox.workspace)
        sandbox.run([task.script], task.limits, seed=0)
        try:
            submission = open_untrusted(sandbox.workspace / SUBMISSION)
        except GradeError as reason:
            yield f"a third run of {task.script} left nothing to grade: {reason}"
            return
        with open(submission, "rb") as content:
            text = content.read(MAX_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / SUBMISSION
        file.write_bytes(text)
        table, (score, *_) = pd.read_csv(file, dtype=str, keep_default_na=False), grade(task, Path(folder))
        altered = {
            "without its last row": table.iloc[:-1],
            "with a row twice": pd.concat([table, table.iloc[:1]]),
            "with no prediction in it": table.assign(**{name: "" for name in table.columns[1:]}),
        }
        for how, changed in altered.items():
            changed.to_csv(file, index=False)
            try:
                grade(task, Path(folder))
            except GradeError:
                continue
            yield f"scripts/eval.py scores a submission {how}: refuse it (envs.grading.read_submission does)"
        yield from _of_labels(task, table, score)
        table.iloc[::-1].to_csv(file, index=False)
        try:
            reordered, *_ = grade(task, Path(folder))
        except GradeError:
            return
        if abs(reordered - score) > 1e-9 * max(1.0, abs(score)):
            yield (
                f"scripts/eval.py scores {reordered:g} instead of {score:g} when rows are in another order: align by id"
            )


def _of_labels(task: Task, submission: pd.DataFrame, score: float) -> Iterator[str]:
    """Whether a class may have the name of a missing value: renamed on both sides, it must change no score."""
    for file in sorted(task.private_dir.glob("*.csv")):
        answers = pd.read_csv(file, dtype=str, keep_default_na=False)
        for column in answers.columns[1:]:
            labels = set(answers[column])
            predicted = [name for name in submission.columns[1:] if set(submission[name]) <= labels]
            if not predicted or pd.to_numeric(answers[column], errors="coerce").notna().any():
                continue
            label = submission[predicted[0]].mode()[0]
            scores = {
                to: _score(
                    task, file.name, _renamed(answers, [column], label, to), _renamed(submission, predicted, label, to)
                )
                for to in ("another_class", "NA", "None", "null")
            }
            if scores.pop("another_class") != score:  # the grader knows its classes by their names
                continue
            if wrong := [to for to, found in scores.items() if found != score]:
                yield (
                    f"scripts/eval.py takes the class {wrong[0]!r} for a missing value: read the answers with "
                    "envs.grading.read_answers, and the submission with read_submission"
                )


def _renamed(table: pd.DataFrame, columns: list[str], label: str, to: str) -> pd.DataFrame:
    return table.assign(**{name: table[name].replace(label, to) for name in columns})


def _score(task: Task, name: str, answers: pd.DataFrame, submission: pd.DataFrame) -> float | None:
    """What the grader says of a submission where scripts/`name` holds other answers; None if it refuses it."""
    with tempfile.TemporaryDirectory() as folder:
        private = Path(folder, "scripts")
        shutil.copytree(task.private_dir, private)
        answers.to_csv(private / name, index=False)
        submission.to_csv(Path(folder, SUBMISSION), index=False)
        try:
            return grade(replace(task, private_dir=private), Path(folder))[0]
        except GradeError:
            return None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digest(file: Path) -> bytes:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()
