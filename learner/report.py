"""The report of a run: `python learner/report.py RUN` writes `RUN/report.html`, one file that needs nothing else.

It is made from what the run folder holds, so a run that stopped early has a report too. Invariants: what a policy or
an experiment wrote is only ever text on the page (escaped by the template, and no script but the page's own may run);
the page refers to nothing outside itself.
"""

from __future__ import annotations

import base64
import collections
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.parquet as pq
from markupsafe import Markup
from omegaconf import OmegaConf

from learner import charts, evaluation, journal, status, transitions
from learner.action_text import diff, visible

TEMPLATES = Path(__file__).parent / "templates"
SHOWN = 300
"""Transitions on the page: the newest half, and as many evenly spread over the rest of the run."""
TOKENS = ("prompt_ids", "response_ids", "behaviour_logprobs")
COLUMNS = [name for name in transitions.SCHEMA.names if name not in TOKENS]
DURATIONS = ("generate", "queue", "restore", "execute", "grade")


def write_report(run_dir: Path) -> Path:
    """Write `<run_dir>/report.html` and return its path.

    Raises:
        FileNotFoundError: the folder holds no run.
    """
    run_dir = Path(run_dir)
    file = run_dir / "report.html"
    partial = file.with_suffix(".partial")
    partial.write_text(render(run_dir), encoding="utf-8")
    partial.replace(file)
    return file


def render(run_dir: Path) -> str:
    """The page, from whatever the run has left so far."""
    if not (run_dir / "config.yaml").exists():
        raise FileNotFoundError(f"{run_dir} holds no run (no config.yaml): give a run's folder, as runs/quickstart")
    config = OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml"))
    results = _json(run_dir / "evaluation.json") or {"tasks": [], "splits": {}}
    rows = journal.read(run_dir)
    moves = list(transitions.read(run_dir, COLUMNS))
    script = (TEMPLATES / "report.js").read_text()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,  # Markup is the page's own
    )
    environment.filters |= {
        "number": evaluation.number,
        "percent": evaluation.percent,
        "signed": _signed,
        "duration": status.duration,
        "count": lambda n: f"{n:,.0f}".replace(",", "\u202f"),
        "diff": diff,
    }
    return environment.get_template("report.html").render(
        run=run_dir.name,
        config=config,
        config_text=OmegaConf.to_yaml(config),
        about=_json(run_dir / "about.json"),
        state=status.read(run_dir / "status.json") if (run_dir / "status.json").exists() else None,
        results=results,
        stages=[stage for stage in evaluation.STAGES if any(stage in task["stages"] for task in results["tasks"])],
        splits=evaluation.SPLITS,
        arrows={str(direction): arrow for direction, arrow in evaluation.ARROWS.items()},
        plots=[(title, note, Markup(svg)) for title, note, svg in _plots(rows, config) if svg],
        bars=Markup(charts.evaluation_bars(results) or ""),
        rows=rows,
        costs=_costs(run_dir, moves, results),
        transitions=choose(moves, SHOWN),
        transitions_total=len(moves),
        durations=DURATIONS,
        colours={str(outcome): colour for outcome, colour in charts.OUTCOME_COLOURS.items()},
        style=Markup((TEMPLATES / "report.css").read_text()),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def choose(rows: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """At most `most` rows, newest first: the newest half, and others evenly spread over the rest."""
    if len(rows) <= most:
        return list(rows)[::-1]
    rest, newest = rows[: -(most // 2)], rows[-(most // 2) :]
    wanted = most - len(newest)
    return [*newest[::-1], *[rest[i * len(rest) // wanted] for i in range(wanted)][::-1]]


def _plots(rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> Iterable[tuple[str, str, str | None]]:
    """(title, note, SVG or None) of each plot over learner steps."""
    yield "Reward", "mean over transitions; thin lines: each task", charts.reward(rows)
    yield "Valid actions", "edits that ran to a graded score, or no edit", charts.valid_rate(rows)
    yield "Outcomes", "share of transitions", charts.outcomes(rows)
    yield (
        "Log-prob gap",
        "mean |difference| between engine and learner on the same tokens",
        charts.logprob_gap(rows, config.get("rl", {}).get("gap_warn")),
    )
    yield "Staleness", "weight versions between a transition's oldest token and its training", charts.staleness(rows)
    yield "Throughput", "response tokens per second of wall-clock time", charts.figure(rows, "tokens_per_s")
    yield "Entropy", "of the policy, mean over response tokens", charts.figure(rows, "entropy")
    yield "Gradient norm", "before clipping", charts.figure(rows, "grad_norm")
    yield (
        "Time of a learner step",
        "what the learner was doing",
        charts.seconds("learner", rows, ["wait", "train", "publish"], total="seconds"),
    )
    yield "Time of a transition", "mean seconds in each part of it", charts.seconds("transition", rows, DURATIONS)


def _costs(run_dir: Path, moves: Iterable[Mapping[str, Any]], results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per task and in all: experiments, their seconds, generated tokens, and what the reward gained for it."""
    costs: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for task in results["tasks"]:
        for found in task["stages"].values():
            costs[task["task"]].update(
                experiments=found["n"] + found["infra_failures"],
                seconds=found["experiment_seconds"],
                tokens=found["response_tokens"],
            )
    if (file := run_dir / "trajectories.parquet").exists():
        for row in pq.read_table(file, columns=["task", "execute"]).to_pylist():
            costs[row["task"]].update(experiments=1, seconds=row["execute"])
    for row in moves:
        tokens = max((span["end"] for span in row["version_spans"]), default=0)
        costs[row["task_id"]].update(experiments=1, seconds=row["execute_seconds"], tokens=tokens)
    gains = {task["task"]: _gain(task["stages"]) for task in results["tasks"]}
    return [{"task": task, **cost, "gain": gains.get(task)} for task, cost in costs.items()]


def _gain(stages: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Mean reward of the last stage less that of the first."""
    rewards = [stage["mean_reward"] for stage in stages.values() if stage["mean_reward"] is not None]
    return rewards[-1] - rewards[0] if len(rewards) > 1 else None


def _json(file: Path) -> Any:
    return json.loads(file.read_text()) if file.exists() else None


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}".replace("-", "\u2212")


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python learner/report.py RUN    (a run's folder, as runs/quickstart)", file=sys.stderr)
        return 2
    try:
        print(write_report(Path(arguments[0])))
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
