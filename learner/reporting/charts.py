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

from envs.records import Fault, Outcome
from learner.evaluation.evaluation import STAGES
from learner.figures.action_text import visible
from learner.figures.text import SPLITS
from learner.figures.waiting import PARTS

OUTCOME_COLOURS = {
    Outcome.EDITED: "#2f9e6e",
    Outcome.NEUTRAL: "#5b8def",
    Outcome.INVALID: "#e0a500",
    Outcome.TRUNCATED: "#8c6d31",
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
    "admission": "#8a8f98",
}
LINE, FAINT, INK = "#2456c4", "#b8c4dc", "#2a2f3a"
DISTINCT = ("#2456c4", "#e0801a", "#2f9e6e", "#c2569b", "#7a6a53", "#11a3b8", "#9b6dd6", "#d9534f")
"""Of things that have no colour of their own (tasks, runs), used in turn."""
LEGEND_MOST = 8
"""Lines that a legend names; more would hide the plot."""
BARS_MOST = 80
"""Steps that are shown as a bar each; more become areas, which a browser draws faster."""
TICKS_MOST = 10
"""Names that fit under the bars; more are written aslant."""
SPLIT_NAMES = frozenset(f"all {label}" for label in SPLITS.values())

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
    named = named_stages(evaluation)
    series = {
        stage: (STAGE_COLOURS[stage], {name: by_stage[stage] for name, by_stage in named.items() if stage in by_stage})
        for stage in stages
    }
    return _bars("evaluation", list(named), series) if stages else None


def compared_bars(runs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Mean reward of each task and split at the last stage of each run (label: evaluation), a bar per run."""
    named = {label: named_stages(evaluation) for label, evaluation in runs.items()}
    last = {
        label: {name: list(by_stage.values())[-1] for name, by_stage in stages.items() if by_stage}
        for label, stages in named.items()
    }
    names = list(dict.fromkeys(name for stages in named.values() for name in stages))
    names.sort(key=lambda name: name in SPLIT_NAMES)
    series = {label: (distinct(i), figures) for i, (label, figures) in enumerate(last.items())}
    return _bars("compared", names, series) if any(last.values()) else None


def named_stages(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Figures by stage of each task, then of each split (`all held-in`)."""
    tasks = {task["task"]: task["stages"] for task in evaluation["tasks"]}
    return tasks | {f"all {SPLITS[split]}": by_stage for split, by_stage in evaluation["splits"].items()}


def overlay(name: str, runs: Mapping[str, Rows], field: str, over_time: bool = False) -> str | None:
    """One figure of several runs (label: rows) over learner steps, or over the minutes that they took."""
    if not any(row.get(field) is not None for rows in runs.values() for row in rows):
        return None

    def draw(axes: Axes) -> None:
        for i, (label, rows) in enumerate(runs.items()):
            places = np.cumsum([row["seconds"] / 60 for row in rows]) if over_time else [row["step"] for row in rows]
            x, y = _known([(place, row.get(field)) for place, row in zip(places, rows, strict=True)])
            axes.plot(x, y, color=distinct(i), linewidth=1.6, label=_plain(label), **_marker(x))
        axes.set_xlabel("minutes of learner steps" if over_time else "learner step")
        if not over_time:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes, len(runs))

    return _svg(name, draw, width=5.4, height=2.8)


def finetuning(rows: Rows, kept_back: Mapping[str, Any]) -> str | None:
    """The loss of each step of fine-tuning, and that on examples that were kept back, before and after."""
    if not rows:
        return None

    def draw(axes: Axes) -> None:
        _line(axes, rows, "loss", label="trained on")
        ends = zip((0, rows[-1]["step"]), map(kept_back.get, ("loss_before", "loss_after")), strict=True)
        x, y = _known(list(ends))
        if x:
            axes.plot(x, y, color="#e0801a", linestyle="", marker="o", markersize=5, label="kept back")
        _legend(axes, 2)
        axes.set_xlabel("optimiser step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return _svg("finetuning", draw, width=5.4, height=2.6)


def reward(rows: Rows) -> str | None:
    """Mean reward of each learner step, with each task's own as thin lines."""

    def draw(axes: Axes) -> None:
        tasks = sorted({task for row in rows for task in row.get("task_rewards", {})})
        for i, task in enumerate(tasks):
            points = [(row["step"], row["task_rewards"].get(task)) for row in rows if "task_rewards" in row]
            axes.plot(*_known(points), color=distinct(i + 1), linewidth=0.9, alpha=0.6, label=_plain(task))
        _line(axes, rows, "reward_mean", label="mean")
        _legend(axes, len(tasks) + 1)

    return _over_steps("reward", rows, ["reward_mean"], draw)


def held_out(rows: Rows, results: Mapping[str, Any]) -> str | None:
    """Mean reward on held-out tasks while the policy was trained, with 95 % intervals: from the stage sft on, through
    the points of the journal, to the stage rl. None where there are no such points."""
    points = [row["held_out"] for row in rows if row.get("held_out")]
    stages = results["splits"].get("held_out") or results["splits"].get("held_in") or {}
    curve = [(point["step"], *(point[name] for name in ("reward", "reward_low", "reward_high"))) for point in points]
    for stage, step in (("sft", 0), ("rl", rows[-1]["step"] if rows else 0)):
        if figures := stages.get(stage):
            curve.append((step, figures["mean_reward"], *(figures["mean_reward_ci"] or (None, None))))
    known = sorted(point for point in curve if None not in point)

    def draw(axes: Axes) -> None:
        steps, means, low, high = zip(*known, strict=True)
        axes.fill_between(steps, low, high, color=FAINT, alpha=0.5, linewidth=0)
        axes.plot(steps, means, color=LINE, linewidth=1.8, **_marker(steps))

    return _over_steps("held_out", rows, ["held_out"], draw) if points and known else None


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


def faults(rows: Rows) -> str | None:
    """Share of the transitions with each fault of an invalid action, stacked."""

    def draw(axes: Axes) -> None:
        seen = [fault for fault in Fault if any(row.get("faults", {}).get(fault) for row in rows)]
        shares = {f: [row.get("faults", {}).get(f, 0) / row["transitions"] for row in rows] for f in seen}
        _stack(axes, rows, {f.replace("_", " "): shares[f] for f in seen}, [distinct(i) for i in range(len(seen))])
        _from_zero(axes)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))

    if not any(sum(row.get("faults", {}).values()) for row in rows):
        return None
    return _over_steps("faults", rows, ["faults"], draw)


def staleness(rows: Rows) -> str | None:
    def draw(axes: Axes) -> None:
        _line(axes, rows, "staleness_mean", FAINT, label="mean")
        _line(axes, rows, "staleness_max", label="max")
        _from_zero(axes)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes, 2)

    return _over_steps("staleness", rows, ["staleness_max"], draw)


def logprob_gap(rows: Rows, warn: float | None) -> str | None:
    """Mean |log-prob gap| between engine and learner; with the level above which the run warns."""

    def draw(axes: Axes) -> None:
        _line(axes, rows, "logprob_gap_mean")
        if warn is not None:
            axes.axhline(warn, color="#d9534f", linewidth=0.9, linestyle="--", label="warns above")
            _legend(axes, 1)
        _from_zero(axes)

    return _over_steps("gap", rows, ["logprob_gap_mean"], draw)


def figure(rows: Rows, name: str) -> str | None:
    """Any one figure that is never negative."""

    def draw(axes: Axes) -> None:
        _line(axes, rows, name)
        _from_zero(axes)

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


def waiting(rows: Rows) -> str | None:
    """The wait of each step by what was waited for, and its publishing."""
    parts = [
        {"step": row["step"], "publish_seconds": row["publish_seconds"]}
        | {f"{part}_seconds": spent for part, spent in row["waited_for"].items()}
        for row in rows
        if "waited_for" in row
    ]
    return seconds("waiting", parts, (*PARTS, "publish"))


def _known(points: Sequence[tuple[float, float | None]]) -> tuple[list[float], list[float]]:
    kept = [(x, y) for x, y in points if y is not None]
    return [x for x, _ in kept], [y for _, y in kept]


def _plain(name: str) -> str:
    """A label without control characters, and that is not read as mathematics."""
    return visible(name).replace("$", r"\$")


def distinct(i: int) -> str:
    return DISTINCT[i % len(DISTINCT)]


def _marker(x: Sequence[float]) -> dict[str, Any]:
    return {"marker": "o", "markersize": 3} if len(x) < 60 else {}


def _line(axes: Axes, rows: Rows, name: str, colour: str = LINE, label: str | None = None) -> None:
    x, y = _known([(row["step"], row.get(name)) for row in rows])
    axes.plot(x, y, color=colour, linewidth=1.8, label=label, **_marker(x))


def _from_zero(axes: Axes) -> None:
    """The vertical axis begins at zero, with room for the markers at both ends."""
    _, top = axes.get_ylim()
    axes.set_ylim(-0.02 * top, 1.05 * top)


def _legend(axes: Axes, lines: int) -> None:
    """Above the plot, where there are few enough lines to tell apart."""
    if lines <= LEGEND_MOST:
        columns = lines if lines <= 5 else (lines + 1) // 2
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=columns, handlelength=1, columnspacing=1)


def _stack(axes: Axes, rows: Rows, heights: Mapping[str, Sequence[float]], colours: Sequence[str]) -> None:
    steps = [row["step"] for row in rows]
    if len(rows) > BARS_MOST:
        axes.stackplot(steps, *heights.values(), labels=list(heights), colors=colours, step="mid")
    else:
        bottom = np.zeros(len(rows))
        for (name, values), colour in zip(heights.items(), colours, strict=True):
            axes.bar(steps, values, 0.85, bottom=bottom, color=colour, label=name)
            bottom += values
    axes.grid(axis="x", visible=False)
    _legend(axes, len(heights))


def _bars(name: str, groups: Sequence[str], series: Mapping[str, tuple[str, Mapping[str, Any]]]) -> str:
    """A bar per group and series; `series` gives each its colour and, by group, its figures."""

    def draw(axes: Axes) -> None:
        width = 0.8 / len(series)
        for number, (label, (colour, figures)) in enumerate(series.items()):
            shown = [
                (i, figures[group])
                for i, group in enumerate(groups)
                if group in figures and figures[group]["mean_reward"] is not None
            ]
            heights = np.array([scored["mean_reward"] for _, scored in shown])
            bounds = np.array([scored["mean_reward_ci"] for _, scored in shown]).reshape(-1, 2).T
            places = [i + (number - (len(series) - 1) / 2) * width for i, _ in shown]
            axes.bar(places, heights, width * 0.92, color=colour, label=_plain(label))
            axes.errorbar(places, heights, np.abs(bounds - heights), fmt="none", ecolor="#4b5563", elinewidth=0.8)
        tasks = sum(group not in SPLIT_NAMES for group in groups)
        axes.set_xticks(range(len(groups)), [_plain(group) for group in groups])
        if len(groups) > TICKS_MOST:
            axes.tick_params(axis="x", labelrotation=30)
            for tick in axes.get_xticklabels():
                tick.set(horizontalalignment="right", rotation_mode="anchor")
        axes.axvline(tasks - 0.5, color="#c3c9d3", linewidth=0.8)
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("mean reward")
        _legend(axes, len(series))

    return _svg(name, draw, width=11, height=2.9)


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
