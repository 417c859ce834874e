"""Evaluation of the policy's stages (`base`, `sft`, `rl`): pure summaries, `evaluation.json` and the table.

Invariants: infrastructure failures enter no figure but their own count; a figure without a single valid attempt is
null, never zero; the file is rewritten whole after each stage, so earlier stages outlive a failure of a later one.
"""

from __future__ import annotations

import collections
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from envs.errors import UserError
from envs.records import Direction, Origin, Outcome, StepInfo, Task, Transition
from learner.figures.fitting import Fitting
from learner.figures.statistics import VALID, bootstrap_interval, distinct, gained, over_tasks
from learner.figures.text import ARROWS, SPLITS, number, percent
from learner.run import transitions

STAGES = ("base", "sft", "rl")


class EvaluationError(UserError):
    """Attempts that cannot be counted; the message says why."""


class Evaluation:
    """The evaluation of one run, on disk after each stage; a resumed run goes on from the stages it finds there."""

    def __init__(self, run_dir: Path, tasks: Mapping[str, Task]):
        self._file = Path(run_dir) / "evaluation.json"
        self._tasks = tasks
        self._result = json.loads(self._file.read_text()) if self._file.exists() else summarise(tasks.values(), {})

    def add(self, stage: str, attempts: Sequence[Transition]) -> dict[str, Any]:
        """Summarise a stage's attempts (in place of earlier ones of that stage), keep them, write the file, return its
        content.

        Raises:
            EvaluationError: an attempt's experiment was simulated.
        """
        if simulated := [t for t in attempts if t.info.origin is Origin.SIMULATED]:
            raise EvaluationError(
                f"{len(simulated)} of {len(attempts)} attempts were simulated, and an evaluation counts only "
                "experiments that ran: choose another sandbox.backend"
            )
        self._result = merge(self._result, summarise(self._tasks.values(), {stage: attempts}))
        write(self._file.parent, self._result)
        transitions.write_attempts(self._file.parent, stage, attempts)
        return self._result

    @property
    def results(self) -> Mapping[str, Any]:
        """The content of `evaluation.json`."""
        return self._result

    @property
    def stages(self) -> set[str]:
        """Those that have been evaluated."""
        return {stage for task in self._result["tasks"] for stage in task["stages"]}

    def table(self) -> Fitting:
        return tables(self._result)


def summarise(tasks: Iterable[Task], attempts: Mapping[str, Sequence[Transition]]) -> dict[str, Any]:
    """The content of `evaluation.json`, from the attempts of each stage.

    Returns `{"tasks": [{task, split, metric, direction, m_init, m_init_test, m_best, divided, stages: {stage: {n,
    mean_reward, mean_reward_ci, valid_rate, truncated, faults: {fault: attempts}, distinct_actions, distinct_valid,
    mean_score, best_score, mean_test_score,
    best_test_score, best_whole_score, optimism, infra_failures, experiment_seconds, response_tokens, rewards: [one per
    attempt that counts]}}}], "splits": {split: {stage: the same without scores and rewards, and optimism_ci}}}`. Scores
    are in the task's own metric, over valid attempts: on the validation part of its answers, and of the same attempts
    on test (and on all, where there are medals), so that `best_test_score` is that of the attempt which is best on
    validation. Optimism is by how much that attempt's improvement over the unchanged script, relative to its score, is
    smaller on test; a task that is not divided has none. Distinct actions are different texts from one state, the mean
    over states; a split's means weigh its tasks equally; intervals are 95 % bootstrap intervals over attempts, that of
    optimism over tasks. `merge` adds what each stage of a split gained over the one before.
    """
    tasks = list(tasks)
    by_task = {
        task.id: {stage: [t for t in of_stage if t.task_id == task.id] for stage, of_stage in attempts.items()}
        for task in tasks
    }
    return {
        "tasks": [
            {
                "task": task.id,
                "split": task.split,
                "metric": task.metric,
                "direction": str(task.direction),
                "m_init": task.m_init,
                "m_init_test": task.m_init_test,
                "m_best": task.m_best,
                "divided": task.parts is not None,
                "stages": {stage: _of_task(of_stage, task) for stage, of_stage in by_task[task.id].items()},
            }
            for task in tasks
        ],
        "splits": {
            split: {
                stage: _of_split({task: by_task[task.id][stage] for task in tasks if task.split == split})
                for stage in attempts
            }
            for split in SPLITS
            if any(task.split == split for task in tasks)
        },
    }


def merge(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """`later` with the stages of `earlier` that it lacks, in the order of `STAGES`.

    Each stage of a split has `gain` and `gain_ci`: its mean reward less that of the stage before it.
    """

    def stages(former: Mapping[str, Any], latter: Mapping[str, Any]) -> dict[str, Any]:
        both = {**former, **latter}
        return {stage: both[stage] for stage in sorted(both, key=STAGES.index)}

    before = {task["task"]: task["stages"] for task in earlier["tasks"]}
    tasks = [{**task, "stages": stages(before.get(task["task"], {}), task["stages"])} for task in later["tasks"]]
    splits = {split: stages(earlier["splits"].get(split, {}), new) for split, new in later["splits"].items()}
    for split, of_split in splits.items():
        members = [task["stages"] for task in tasks if task["split"] == split]
        for former, stage in itertools.pairwise(of_split):
            of_split[stage] = of_split[stage] | gained(
                [member[former]["rewards"] for member in members], [member[stage]["rewards"] for member in members]
            )
    return {"tasks": tasks, "splits": splits}


def write(run_dir: Path, evaluation: Mapping[str, Any]) -> Path:
    """Write `<run_dir>/evaluation.json`, whole or not at all."""
    file = Path(run_dir) / "evaluation.json"
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(evaluation, indent=2, allow_nan=False) + "\n")
    partial.replace(file)
    return file


def tables(evaluation: Mapping[str, Any]) -> Fitting:
    """`table`, and where there is no room for it without metrics, then without scores."""
    return Fitting(table(evaluation), table(evaluation, about=False), table(evaluation, about=False, scores=False))


def table(evaluation: Mapping[str, Any], about: bool = True, scores: bool = True) -> Table:
    """base | sft | rl side by side: mean reward, valid rate, best score and its test score of each task, then each
    split's mean. about: with each task's metric and first score; without scores: the first two figures."""
    stages = [s for s in STAGES if any(s in task["stages"] for task in evaluation["tasks"])]
    title = "evaluation: mean reward · valid rate · best score · the same script's on test (*: not apart)"
    caption = "of means: distinct valid actions per state · optimism, by how much improvement is smaller on test"
    if not scores:
        title, caption = "evaluation: mean reward · valid rate", "report.html has the scores too"
    view = Table(title=title, caption=caption, header_style="bold", box=box.ROUNDED)
    view.title_justify = view.caption_justify = "left"
    view.add_column("task", no_wrap=True)
    if about:
        view.add_column("metric", no_wrap=True)
        view.add_column("start", justify="right")
    for stage in stages:
        view.add_column(stage, justify="right", no_wrap=True)
    for split, label in SPLITS.items():
        members = [task for task in evaluation["tasks"] if task["split"] == split]
        for task in members:
            metric = f"{task['metric']} {ARROWS[Direction(task['direction'])]}"
            name = task["task"] if task.get("divided") else f"{task['task']} *"
            start = [metric, number(task["m_init"])] if about else []
            view.add_row(name, *start, *_cells(task["stages"], stages, scores))
        if members:
            blank = ["", ""] if about else []
            means = _cells(evaluation["splits"][split], stages, scores)
            view.add_row(f"{label} mean", *blank, *means, style="bold")
            view.add_section()
    return view


def _cells(figures: Mapping[str, Mapping[str, Any]], stages: Sequence[str], scores: bool) -> list[Text]:
    """One cell per stage; the reward is green or red where it rose or fell since the stage before."""
    cells, before = [], None
    for stage in stages:
        of_stage = figures.get(stage, {})
        reward = of_stage.get("mean_reward")
        rose = 0 if None in (reward, before) else np.sign(round(reward - before, 3))
        parts = [(number(reward), {1: "green", 0: "", -1: "red"}[int(rose)])]
        parts.append(f"  {percent(of_stage.get('valid_rate')):>4}")
        if not scores:
            pass
        elif "best_score" in of_stage or not of_stage:
            parts.append(f"  {number(of_stage.get('best_score')):>6}  {number(of_stage.get('best_test_score')):>6}")
        else:
            parts.append(f"  {number(of_stage.get('distinct_valid')):>6}  {percent(of_stage.get('optimism')):>6}")
        cells.append(Text.assemble(*parts))
        before = reward
    return cells


def _of_task(attempts: Sequence[Transition], task: Task) -> dict[str, Any]:
    counted = [t for t in attempts if t.outcome is not Outcome.INFRA_FAILURE]
    scored = _scored(attempts)
    best = max(scored, key=lambda info: task.direction.sign * info.score_after, default=StepInfo())
    tested = [test for info in scored if info.withheld and (test := info.withheld.on_test) is not None]
    return {
        **_figures([attempts]),
        "mean_score": float(np.mean([info.score_after for info in scored])) if scored else None,
        "best_score": best.score_after,
        "mean_test_score": float(np.mean(tested)) if tested else None,
        "best_test_score": best.withheld and best.withheld.on_test,
        "best_whole_score": best.withheld and best.withheld.whole,
        "optimism": _optimism(best, task),
        "rewards": [float(t.reward) for t in counted],
    }


def _scored(attempts: Sequence[Transition]) -> list[StepInfo]:
    return [t.info for t in attempts if t.outcome in VALID and t.info.score_after is not None]


def _optimism(best: StepInfo, task: Task) -> float | None:
    if not (task.parts and best.withheld) or None in (task.m_init, task.m_init_test):
        return None
    seen = (best.score_after - task.m_init) / (abs(task.m_init) or 1.0)
    unseen = (best.withheld.test - task.m_init_test) / (abs(task.m_init_test) or 1.0)
    return task.direction.sign * (seen - unseen)


def _of_split(attempts_of: Mapping[Task, Sequence[Transition]]) -> dict[str, Any]:
    known = [_of_task(attempts, task)["optimism"] for task, attempts in attempts_of.items()]
    apart = [value for value in known if value is not None]
    return {
        **_figures(list(attempts_of.values())),
        "optimism": float(np.mean(apart)) if apart else None,
        "optimism_ci": over_tasks(apart),
    }


def _figures(attempts_by_task: Sequence[Sequence[Transition]]) -> dict[str, Any]:
    counted = [[t for t in attempts if t.outcome is not Outcome.INFRA_FAILURE] for attempts in attempts_by_task]
    rewards = [np.array([t.reward for t in attempts]) for attempts in counted if attempts]
    valid = [np.mean([t.outcome in VALID for t in attempts]) for attempts in counted if attempts]
    n = sum(map(len, counted))
    return {
        "n": n,
        "mean_reward": float(np.mean([r.mean() for r in rewards])) if rewards else None,
        "mean_reward_ci": bootstrap_interval(rewards),
        "valid_rate": float(np.mean(valid)) if valid else None,
        "truncated": sum(t.outcome is Outcome.TRUNCATED for attempts in counted for t in attempts),
        "faults": dict(collections.Counter(t.info.fault for attempts in counted for t in attempts if t.info.fault)),
        "distinct_actions": distinct([t for attempts in counted for t in attempts]),
        "distinct_valid": distinct([t for attempts in counted for t in attempts], VALID),
        "infra_failures": sum(map(len, attempts_by_task)) - n,
        "experiment_seconds": sum(t.info.durations.execute for attempts in attempts_by_task for t in attempts),
        "response_tokens": sum(len(t.response_ids) for attempts in attempts_by_task for t in attempts),
    }
