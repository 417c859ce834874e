"""The report of a run: `RUN/report.html`, one file that needs nothing else.

With several runs it writes their comparison, `compare.html` beside the first run. Both are made from what the run
folders hold, so a run that stopped early has a report too. Invariants: what a policy or an experiment wrote is only
ever text on the page (escaped by the template or packed as data, and no script but the page's own may run); the page
refers to nothing outside itself.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from omegaconf import OmegaConf

from learner.figures.text import ARROWS, SPLITS
from learner.figures.waiting import in_words
from learner.reporting import browser, charts, compare, costs, pages
from learner.reporting.report_data import RunData, load

SHOWN = 50_000
"""Most transitions on the page, about 300 bytes each: of a longer run the newest steps, and others evenly spread."""


def write_report(run_dir: Path, output: Path | None = None, prices: Mapping[str, Any] | None = None) -> Path:
    """Write the report of a run and return its path.

    output: by default `<run_dir>/report.html`; prices: in place of those of the run's configuration.

    Raises:
        ReportError: the folder holds no run, or a damaged file.
    """
    return _write(output or Path(run_dir) / "report.html", render(_load(run_dir, prices)))


def write_comparison(
    run_dirs: Sequence[Path], output: Path | None = None, prices: Mapping[str, Any] | None = None
) -> Path:
    """Write the comparison of runs and return its path, by default `compare.html` beside the first run.

    Raises:
        ReportError: a folder holds no run, or a damaged file.
    """
    runs = compare.named([_load(run_dir, prices) for run_dir in run_dirs])
    file = output or next(iter(runs.values())).dir.parent / "compare.html"
    return _write(file, pages.environment().get_template("compare.html").render(**compare.page(runs), **pages.parts()))


def render(run: RunData) -> str:
    """The page of one run."""
    steps = sorted({row["step"] for row in run.moves})
    kept = browser.choose(steps, max(1, SHOWN * len(steps) // max(1, len(run.moves))))
    index, blocks = browser.build(run, kept)
    return (
        pages.environment()
        .get_template("report.html")
        .render(
            run=run,
            config_text=OmegaConf.to_yaml(run.config),
            splits=SPLITS,
            arrows={str(direction): arrow for direction, arrow in ARROWS.items()},
            plots=[(title, note, Markup(svg)) for title, note, svg in _plots(run) if svg],
            bars=Markup(charts.evaluation_bars(run.results) or ""),
            agents=list(_agents(run.agents)) if run.agents else [],
            costs=costs.of_run(run),
            added=dict(_added(run)),
            held_in={task["task"] for task in run.results["tasks"] if task["split"] == "held_in"},
            index=Markup(index),
            blocks={step: Markup(block) for step, block in blocks.items()},
            kept=sum(row["step"] in blocks for row in run.moves),
            tried=[stage for stage in run.stages if stage in blocks],
            page_lines=50,
            colours=json.dumps({**charts.OUTCOME_COLOURS, **charts.PART_COLOURS}),
            **pages.parts("browser.js", "report.js"),
        )
    )


def _plots(run: RunData) -> Iterable[tuple[str, str, str | None]]:
    """(title, note, SVG or None) of each plot of training."""
    rows = run.rows
    yield "Fine-tuning", "loss in nats per response token", charts.finetuning(run.finetuning, run.kept_back)
    yield "Reward", "mean over transitions, at each step of other states; thin lines: each task", charts.reward(rows)
    yield (
        "Held-out reward",
        "of tasks.held_out (of all, where it is empty), 95 % intervals",
        charts.held_out(rows, run.results),
    )
    yield "Outcomes", "share of transitions", charts.outcomes(rows)
    yield "Invalid actions", "share of transitions, by what is wrong with them", charts.faults(rows)
    yield "Valid actions", "edits that ran to a graded score, or no edit", charts.valid_rate(rows)
    yield "Throughput", "response tokens per second of wall-clock time", charts.figure(rows, "tokens_per_s")
    yield (
        "Time of a learner step",
        "what the learner was doing",
        charts.seconds("learner", rows, ["wait", "train", "publish"], total="seconds"),
    )
    yield "What the learner waited for", _waits(rows), charts.waiting(rows)
    yield (
        "Time of a transition",
        "mean seconds in each part of it",
        charts.seconds("transition", rows, browser.DURATIONS),
    )
    yield "Staleness", "weight versions between a transition's oldest token and its training", charts.staleness(rows)
    yield (
        "Log-prob gap",
        "mean |difference| between engine and learner on the same tokens",
        charts.logprob_gap(rows, run.config.get("rl", {}).get("gap_warn")),
    )
    yield "Entropy", "of the policy, mean over response tokens", charts.figure(rows, "entropy")
    yield "Gradient norm", "before clipping", charts.figure(rows, "grad_norm")


def _added(run: RunData) -> Iterable[tuple[str, dict[str, Any]]]:
    """By split what the last stage gained over the one before it: `stage`, `over`, `gain`, and the bounds `low` and
    `high` of its 95 % interval."""
    for split, stages in run.results["splits"].items():
        names = [stage for stage in run.stages if stage in stages]
        if len(names) > 1 and stages[names[-1]].get("gain_ci"):
            low, high = stages[names[-1]]["gain_ci"]
            yield split, {
                "stage": names[-1], "over": names[-2], "gain": stages[names[-1]]["gain"], "low": low, "high": high,
            }  # fmt: skip


def _waits(rows: Sequence[Mapping[str, Any]]) -> str:
    """The shares of all learner steps, in words."""
    parts = sum((collections.Counter(row.get("waited_for")) for row in rows), collections.Counter())
    total = {name: sum(row[name] for row in rows) for name in ("publish_seconds", "seconds")}
    return in_words(parts, total["publish_seconds"], total["seconds"])


def _agents(scores: Mapping[str, Any]) -> Iterable[tuple[str, str, dict[str, dict[str, Any]]]]:
    """(title, note, {split: {agent: figures}}) of each setting in which the run's policy was tried beside others."""
    settings = scores["settings"]
    titles = {
        "step": ("Single steps", f"from fixed states, {settings['attempts']} attempts from each"),
        "episode": ("Episodes", f"of at most {settings['steps']} actions, {settings['attempts']} on each task"),
    }
    for setting, (title, note) in titles.items():
        splits = {
            SPLITS[split]: {name: by_setting[setting] for name, by_setting in agents.items() if setting in by_setting}
            for split, agents in scores["splits"].items()
        }
        if any(splits.values()):
            yield title, note, splits


def _load(run_dir: Path, prices: Mapping[str, Any] | None) -> RunData:
    run = load(run_dir)
    return dataclasses.replace(run, config={**run.config, "report": {**run.prices, **(prices or {})}})


def _write(file: Path, html: str) -> Path:
    partial = file.with_suffix(".partial")
    partial.write_text(html, encoding="utf-8")
    partial.replace(file)
    return file
