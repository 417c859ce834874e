"""The report's plots: rows of the journal and an evaluation in, self-contained SVG elements out.

Invariants: nothing here refers to anything outside the element; a plot for which no figure exists is None.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from envs.records import Outcome
from learner.action_text import visible
from learner.evaluation import SPLITS, STAGES

OUTCOME_COLOURS = {
    Outcome.EDITED: "#2f9e6e",
    Outcome.NEUTRAL: "#5b8def",
    Outcome.INVALID: "#e0a500",
    Outcome.SCRIPT_ERROR: "#d9534f",
    Outcome.TIMEOUT: "#9b6dd6",
    Outcome.OUT_OF_MEMORY: "#c2569b",
    Outcome.INFRA_FAILURE: "#8a8f98",
}
STAGE_COLOURS = {"base": "#c3c9d3", "sft": "#8fb4f0", "rl": "#2456c4"}
PART_COLOURS = {
    "wait": "#e0a500",
    "train": "#2456c4",
    "publish": "#9b6dd6",
    "other": "#c3c9d3",
    "generate": "#2456c4",
    "queue": "#e0a500",
    "restore": "#9b6dd6",
    "execute": "#2f9e6e",
    "grade": "#c2569b",
}
LINE, FAINT, INK = "#2456c4", "#b8c4dc", "#2a2f3a"

STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#c3c9d3",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceff4",
    "xtick.color": "#6b7280",
    "ytick.color": "#6b7280",
    "legend.frameon": False,
    "legend.fontsize": 8,
}
Rows = Sequence[Mapping[str, Any]]


def evaluation_bars(evaluation: Mapping[str, Any]) -> str | None:
    """Mean reward of each task and split, a bar per stage with its 95 % interval."""
    stages = [stage for stage in STAGES if any(stage in task["stages"] for task in evaluation["tasks"])]
    named = [(task["task"], task["stages"]) for task in evaluation["tasks"]]
    named += [(f"all {SPLITS[split]}", of) for split, of in evaluation["splits"].items()]
    if not stages:
        return None

    def draw(axes: Axes) -> None:
        width = 0.8 / len(stages)
        for number, stage in enumerate(stages):
            found = [(i, of[stage]) for i, (_, of) in enumerate(named) if stage in of]
            shown = [(i, figures) for i, figures in found if figures["mean_reward"] is not None]
            heights = np.array([figures["mean_reward"] for _, figures in shown])
            bounds = np.array([figures["mean_reward_ci"] for _, figures in shown]).reshape(-1, 2).T
            spread = np.abs(bounds - heights)
            places = [i + (number - (len(stages) - 1) / 2) * width for i, _ in shown]
            axes.bar(places, heights, width * 0.92, color=STAGE_COLOURS[stage], label=stage)
            axes.errorbar(places, heights, spread, fmt="none", ecolor="#4b5563", elinewidth=0.8)
        axes.set_xticks(range(len(named)), [_plain(name) for name, _ in named])
        axes.axvline(len(evaluation["tasks"]) - 0.5, color="#c3c9d3", linewidth=0.8)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("mean reward")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(stages))

    return _svg("evaluation", draw, width=11, height=2.9)


def reward(rows: Rows) -> str | None:
    """Mean reward of each learner step, with each task's own as thin lines."""

    def draw(axes: Axes) -> None:
        tasks = sorted({task for row in rows for task in row.get("task_rewards", {})})
        for task in tasks:
            points = [(row["step"], row["task_rewards"].get(task)) for row in rows if "task_rewards" in row]
            axes.plot(*_known(points), color=FAINT, linewidth=0.9)
        _line(axes, rows, "reward_mean")

    return _over_steps("reward", rows, ["reward_mean"], draw)


def valid_rate(rows: Rows) -> str | None:
    def draw(axes: Axes) -> None:
        _line(axes, rows, "valid_rate")
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))

    return _over_steps("valid", rows, ["valid_rate"], draw)


def outcomes(rows: Rows) -> str | None:
    """Share of each outcome, stacked."""

    def draw(axes: Axes) -> None:
        seen = [outcome for outcome in Outcome if any(row["outcomes"].get(outcome) for row in rows)]
        shares = {o: [row["outcomes"].get(o, 0) / max(1, sum(row["outcomes"].values())) for row in rows] for o in seen}
        _stack(axes, rows, {o.replace("_", " "): shares[o] for o in seen}, [OUTCOME_COLOURS[o] for o in seen])
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))

    return _over_steps("outcomes", rows, ["outcomes"], draw)


def staleness(rows: Rows) -> str | None:
    def draw(axes: Axes) -> None:
        _line(axes, rows, "staleness_mean", FAINT, label="mean")
        _line(axes, rows, "staleness_max", label="max")
        axes.set_ylim(bottom=-0.05)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()

    return _over_steps("staleness", rows, ["staleness_max"], draw)


def logprob_gap(rows: Rows, warn: float | None) -> str | None:
    """Mean |log-prob gap| between engine and learner; with the level above which the run warns."""

    def draw(axes: Axes) -> None:
        _line(axes, rows, "logprob_gap_mean")
        if warn is not None:
            axes.axhline(warn, color="#d9534f", linewidth=0.9, linestyle="--", label="warns above")
            axes.legend()
        axes.set_ylim(bottom=0)

    return _over_steps("gap", rows, ["logprob_gap_mean"], draw)


def figure(rows: Rows, name: str) -> str | None:
    """Any one figure that is never negative."""

    def draw(axes: Axes) -> None:
        _line(axes, rows, name)
        axes.set_ylim(bottom=0)

    return _over_steps(name, rows, [name], draw)


def seconds(name: str, rows: Rows, parts: Sequence[str], total: str | None = None) -> str | None:
    """The `<part>_seconds` of each step, stacked; what they leave of `total` is shown as `other`."""

    def draw(axes: Axes) -> None:
        shown = [part for part in parts if any(row.get(f"{part}_seconds") for row in rows)]
        heights = {part: [row.get(f"{part}_seconds") or 0 for row in rows] for part in shown}
        if total is not None:
            heights["other"] = [
                max(0, row[total] - sum(heights[part][i] for part in shown)) for i, row in enumerate(rows)
            ]
        _stack(axes, rows, heights, [PART_COLOURS[part] for part in heights])
        axes.set_ylabel("seconds")

    return _over_steps(name, rows, [f"{part}_seconds" for part in parts], draw)


def _known(points: Sequence[tuple[float, float | None]]) -> tuple[list[float], list[float]]:
    kept = [(x, y) for x, y in points if y is not None]
    return [x for x, _ in kept], [y for _, y in kept]


def _plain(name: str) -> str:
    """A label without control characters, and that is not read as mathematics."""
    return visible(name).replace("$", r"\$")


def _line(axes: Axes, rows: Rows, name: str, colour: str = LINE, label: str | None = None) -> None:
    x, y = _known([(row["step"], row.get(name)) for row in rows])
    axes.plot(x, y, color=colour, linewidth=1.8, marker="o", markersize=3 if len(x) < 60 else 0, label=label)


def _stack(axes: Axes, rows: Rows, heights: Mapping[str, Sequence[float]], colours: Sequence[str]) -> None:
    bottom = [0.0] * len(rows)
    for (name, values), colour in zip(heights.items(), colours, strict=True):
        axes.bar([row["step"] for row in rows], values, 0.85, bottom=bottom, color=colour, label=name)
        bottom = [low + value for low, value in zip(bottom, values, strict=True)]
    axes.grid(axis="x", visible=False)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=5, handlelength=1, columnspacing=1)


def _over_steps(name: str, rows: Rows, needed: Sequence[str], draw: Any) -> str | None:
    if not any(row.get(field) is not None for row in rows for field in needed):
        return None

    def with_steps(axes: Axes) -> None:
        draw(axes)
        axes.set_xlabel("learner step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return _svg(name, with_steps, width=5.4, height=2.6)


def _svg(name: str, draw: Any, width: float, height: float) -> str:
    """One `<svg>` element, `width` × `height` inches at its natural size."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):  # the salt keeps ids of two plots on a page apart
        page = Figure(figsize=(width, height), layout="constrained")
        draw(page.add_subplot())
        buffer = io.StringIO()
        nothing = dict.fromkeys(["Creator", "Date", "Format", "Type"])
        page.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]
