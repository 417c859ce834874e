"""A run's status as people see it: a panel of the terminal, a line of a log, and the words for a page.

Pure: a status and the time of day in, rich renderables or text out.
"""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from envs.records import Outcome
from learner.figures.text import duration, number
from learner.figures.waiting import in_words
from learner.run.status import Stage, State, Status

COLOURS = {
    Outcome.EDITED: "green",
    Outcome.NEUTRAL: "blue",
    Outcome.INVALID: "yellow",
    Outcome.TRUNCATED: "bright_yellow",
    Outcome.SCRIPT_ERROR: "red",
    Outcome.TIMEOUT: "magenta",
    Outcome.OUT_OF_MEMORY: "bright_magenta",
    Outcome.INFRA_FAILURE: "bright_black",
}
BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 32
"""Columns of the sparkline and of the bar of outcomes."""
SILENT_SECONDS = 30.0
"""A running driver rewrites its status far more often; after this long without, the panel says so."""


def line(status: Status, now: float, learner_step: bool = False) -> str:
    """One line for a log: stage, steps, figures and, for the line of a learner step, what it trained on."""
    stage = status.stages[-1]
    parts = [f"{stage.name} {count(stage)}".rstrip()]
    if learner_step and status.rewards:
        parts += [f"reward {status.rewards[-1]:.3f}", f"valid {status.valid_rate or 0:.0%}"]
        parts += [", ".join(f"{count} {name}" for name, count in _present(status))]
    parts += [*known_figures(status), waiting(status)]
    if (left := seconds_left(stage, now)) is not None:
        parts.append(f"{duration(left)} left")
    return f"[{duration(now - status.started)}] " + " · ".join(part for part in parts if part)


def panel(status: Status, now: float, messages: int = 0) -> RenderableType:
    """The live view; with the last `messages` messages where they are not shown elsewhere."""
    colour = "red" if status.result.ended else "cyan"
    colour = "green" if status.result is State.DONE else colour
    lives = not status.result.ended
    elapsed = duration((now if lives else status.written) - status.started)
    parts: list[RenderableType] = [_stages(status, now)]
    if status.rewards or status.actors_total or status.figures:
        parts += [Text(), _numbers(status)]
    if status.reason:
        parts.append(Text(status.reason, style="bold red"))
    if lives and now - status.written > SILENT_SECONDS:
        parts.append(Text(f"no sign of the driver for {duration(now - status.written)}", style="bold red"))
    shown = status.messages[len(status.messages) - messages :] if messages else ()
    parts += [Text(f"› {message}", style="dim", overflow="ellipsis", no_wrap=True) for message in shown]
    title = Text.assemble((f" {status.run} ", "bold"), (f"{status.result} ", colour))
    return Panel(
        Group(*parts),
        title=title,
        title_align="left",
        subtitle=f" {elapsed} ",
        subtitle_align="right",
        border_style=colour,
        box=box.ROUNDED,
        padding=(0, 1),
    )


def seconds_left(stage: Stage, now: float) -> float | None:
    """Time left in a stage at its pace so far; None where nothing is known yet."""
    steps = stage.done - stage.first
    if stage.ended is not None or steps <= 0 or stage.done >= stage.total:
        return None
    return (now - stage.started) / steps * (stage.total - stage.done)


def sparkline(values: tuple[float, ...], width: int = WIDTH) -> str:
    """The last `width` values as bars between their minimum and maximum."""
    shown = values[-width:]
    low, high = min(shown), max(shown)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((value - low) * scale)] for value in shown)


def _present(status: Status) -> list[tuple[str, int]]:
    """Outcomes that occurred, by their name in words."""
    return [(name.replace("_", " "), count) for name, count in status.outcomes.items() if count]


def count(stage: Stage) -> str:
    """Steps that are done, of all where these are known."""
    return f"{stage.done}/{stage.total}" if stage.total else str(stage.done or "")


def known_figures(status: Status) -> list[str]:
    """The learner's figures that are known."""
    known = {
        "loss {:.4g}": status.figures.get("loss"),
        "staleness {}": status.staleness_max,
        "log-prob gap {:.3f}": status.figures.get("logprob_gap_mean"),
        "{:.0f} tok/s": status.tokens_per_s,
    }
    return [text.format(value) for text, value in known.items() if value is not None]


def last_point(status: Status) -> tuple[str, str]:
    """The newest reward on held-out tasks, and its interval and step in words."""
    last = status.held_out[-1]
    interval = "" if last.reward_low is None else f"{number(last.reward_low)} to {number(last.reward_high)}, "
    return number(last.reward), f"{interval}after step {last.step}"


def waiting(status: Status) -> str:
    """What the last learner step waited for, in words."""
    figures = status.figures
    if not figures.get("wait_seconds"):
        return ""
    return in_words(status.waited_for, figures.get("publish_seconds") or 0.0, figures.get("seconds") or 0.0)


def _stages(status: Status, now: float) -> Table:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(width=1)
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    for stage in status.stages:
        if stage.ended is not None:
            took = duration(stage.ended - stage.started)
            grid.add_row(Text("✓", "green"), Text(stage.name), Text(count(stage)), Text(), Text(took, "dim"))
            continue
        left = seconds_left(stage, now)
        bar = ProgressBar(
            total=stage.total or None,
            completed=stage.done,
            pulse=not stage.total,
            animation_time=now,
            complete_style="cyan",
            pulse_style="cyan",
        )
        when = f"{duration(left)} left" if left is not None else duration(now - stage.started)
        grid.add_row(Text("●", "cyan"), Text(stage.name, "bold"), Text(count(stage)), bar, Text(when, "cyan"))
    return grid


def _numbers(status: Status) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    if status.rewards:
        grid.add_row(
            "reward",
            Text.assemble(
                (sparkline(status.rewards), "cyan"),
                (f"  {status.rewards[-1]:.3f}", "bold"),
                f"  valid {status.valid_rate or 0:.0%}  ",
                ("each step of other states", "dim"),
            ),
        )
    if status.held_out:
        curve = sparkline(tuple(point.reward for point in status.held_out))
        reward, note = last_point(status)
        grid.add_row("held-out", Text.assemble((curve, "cyan"), (f"  {reward}", "bold"), (f"  {note}", "dim")))
    if total := sum(status.outcomes.values()):
        bar = [("█" * round(WIDTH * n / total), COLOURS[name]) for name, n in status.outcomes.items()]
        legend = [(f"■ {n} {name}  ", COLOURS[name.replace(" ", "_")]) for name, n in _present(status)]
        grid.add_row("outcomes", Text.assemble(*bar))
        grid.add_row("", Text.assemble(*legend))
    if status.actors_total and not status.result.ended:
        lost = status.actors_alive < status.actors_total
        up = (f"{status.actors_alive}/{status.actors_total} up", "bold red" if lost else "")
        grid.add_row("actors", Text.assemble(up, f" · experiments in flight: {status.experiments}"))
    if figures := known_figures(status):
        grid.add_row("learner", " · ".join(figures))
    if waited := waiting(status):
        grid.add_row("", waited)
    return grid
