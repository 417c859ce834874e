"""The evaluation of several agents as a nested record (`evaluation.json`) and as tables for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from actors.attempts import EPISODE, STEP, Attempt
from envs.records import Direction, Task
from learner.evaluation import scores
from learner.figures.fitting import Fitting
from learner.figures.text import ARROWS, SPLITS, duration, number, percent

SETTINGS = {STEP: "single steps", EPISODE: "episodes"}
NARROW = ("improvement", "gap", "valid", "reward")
"""Figures of an agent that are shown where there is no room for all."""
LEGEND = (
    "improvement: relative to the unchanged script's score, mean over attempts with its 95 % interval, and of the best "
    "attempt, on the validation part of the answers · on test: of the same scripts on the part that no agent saw, of "
    "tasks that have one · optimism: by how much the former is above, with its interval over tasks · gap: the part "
    "closed of that to the task's best known score · medals: by scores on test (by official ones, on all answers) · "
    "runs: experiments · time: of an attempt · "
    "over the first: difference of attempts from the same state with the same seed"
)


def result(
    agents: Sequence[str], attempts_of: Mapping[str, Sequence[Attempt]], tasks: Mapping[str, Task]
) -> dict[str, Any]:
    """`{"tasks": [{task, split, metric, direction, m_init, m_init_test, m_best, divided, agents}], "splits": {split:
    agents}}`, where agents is `{agent: {setting: figures}}` with the figures of `learner.evaluation.scores.figures`;
    those of a split also hold `over`, the difference to the first agent of that setting. A task that is not divided has
    no test part of its own.
    """
    listed = []
    for task in tasks.values():
        about = {name: getattr(task, name) for name in ("split", "metric", "m_init", "m_init_test", "m_best")}
        about["divided"] = task.parts is not None
        of_task = {agent: _settings(attempts_of[agent], {task.id: task}) for agent in agents}
        listed.append({"task": task.id, **about, "direction": str(task.direction), "agents": of_task})
    splits = {}
    for split in SPLITS:
        if members := {name: task for name, task in tasks.items() if task.split == split}:
            splits[split] = {agent: _settings(attempts_of[agent], members) for agent in agents}
            _compare(splits[split], attempts_of, members)
    return {"tasks": listed, "splits": splits}


def _settings(attempts: Sequence[Attempt], tasks: Mapping[str, Task]) -> dict[str, Any]:
    by_setting = {name: [attempt for attempt in attempts if attempt.setting == name] for name in SETTINGS}
    return {
        name: scores.figures([attempt for attempt in chosen if attempt.task_id in tasks], tasks)
        for name, chosen in by_setting.items()
        if chosen
    }


def _compare(
    of_split: Mapping[str, dict[str, Any]], attempts_of: Mapping[str, Sequence[Attempt]], tasks: Mapping[str, Task]
) -> None:
    """Add the differences to the first agent."""
    for setting in SETTINGS:
        tested = [agent for agent, known in of_split.items() if setting in known]
        sides = [[attempt for attempt in attempts_of[agent] if attempt.setting == setting] for agent in tested]
        for agent, attempts in list(zip(tested, sides, strict=True))[1:]:
            of_split[agent][setting]["over"] = {"agent": tested[0], **scores.difference(attempts, sides[0], tasks)}


def tables(result: Mapping[str, Any]) -> list[Fitting]:
    """For each setting the agents' figures over each split, then task by task; fewer figures where there is no room."""
    agents = [agent["name"] for agent in result["agents"]]
    agents_of = {
        setting: [name for name in agents if any(setting in figures[name] for figures in result["splits"].values())]
        for setting in SETTINGS
    }
    settings = result["settings"]
    titles = {
        STEP: f"single steps from fixed states, {settings['attempts']} attempts from each",
        EPISODE: f"episodes of at most {settings['steps']} actions, {settings['attempts']} on each task",
    }
    made = []
    for setting, names in agents_of.items():
        if names:
            overall = (_overall(result, setting, names, titles[setting], narrow) for narrow in (False, True))
            made += [
                Fitting(*overall),
                Fitting(*(_by_task(result, setting, names, narrow) for narrow in (False, True))),
            ]
    return made


def _overall(result: Mapping[str, Any], setting: str, agents: Sequence[str], title: str, narrow: bool) -> Table:
    medals = any(figures[name][setting]["medals"] for figures in result["splits"].values() for name in agents)
    legend = "evaluation.json and report.html have more" if narrow else LEGEND
    view = Table(title=title, caption=legend, header_style="bold", box=box.ROUNDED)
    view.title_justify = view.caption_justify = "left"
    view.add_column("agent", no_wrap=True)
    names = ("improvement", "best", "on test", "optimism", "gap", "valid", "reward", "medals", "runs", "tokens", "time")
    shown = [name for name in NARROW if narrow] or [name for name in names if name != "medals" or medals]
    for name in shown:
        view.add_column(name, justify="right", no_wrap=name not in ("improvement", "on test", "optimism"))
    if not narrow:
        view.add_column("over the first", justify="right", overflow="fold")
    for split, of_split in result["splits"].items():
        view.add_row(Text(SPLITS[split], "bold"))
        for name in agents:
            scored = of_split[name][setting]
            cells = {
                "improvement": _interval(scored["improvement"], scored["improvement_ci"]),
                "best": _signed(scored["best_improvement"]),
                "on test": _interval(scored["test_improvement"], scored["test_improvement_ci"]),
                "optimism": _interval(scored["optimism"], scored["optimism_ci"]),
                "gap": percent(scored["gap"]),
                "valid": percent(scored["valid_rate"]),
                "reward": number(scored["reward"]),
                "medals": f"{sum(scored['medals'].values())}/{scored['n']} ({sum(scored['official_medals'].values())})",
                "runs": str(scored["experiments"]),
                "tokens": f"{scored['response_tokens']:,}".replace(",", "\u202f") if scored["response_tokens"] else "–",
                "time": duration((scored["experiment_seconds"] + scored["generate_seconds"]) / max(1, scored["n"])),
            }
            over = [] if narrow else [_over(scored.get("over"))]
            view.add_row(f"  {name}", *(cells[column] for column in shown), *over)
        view.add_section()
    return view


def _by_task(result: Mapping[str, Any], setting: str, agents: Sequence[str], narrow: bool) -> Table:
    more = "" if narrow else " · of the best attempt · mean on test (*: not apart)"
    title = f"{SETTINGS[setting]}, task by task: mean improvement{more}"
    view = Table(title=title, title_justify="left", header_style="bold", box=box.ROUNDED)
    for name in ("task",) if narrow else ("task", "metric"):
        view.add_column(name, no_wrap=True)
    for name in agents if narrow else ("start", "best known", *agents):
        view.add_column(name, justify="right", overflow="fold")
    for split in SPLITS:
        for task in (task for task in result["tasks"] if task["split"] == split):
            scored = [task["agents"][name][setting] for name in agents]
            leading = max(
                (figures["improvement"] for figures in scored if figures["improvement"] is not None), default=None
            )
            which = ("improvement",) if narrow else ("improvement", "best_improvement", "test_improvement")
            cells = [
                Text(
                    " · ".join(_signed(figures[name]) for name in which),
                    "bold" if figures["improvement"] == leading else "",
                )
                for figures in scored
            ]
            metric = f"{task['metric']} {ARROWS[Direction(task['direction'])]}"
            name = task["task"] if task["divided"] else f"{task['task']} *"
            about = [] if narrow else [metric, number(task["m_init"]), number(task["m_best"])]
            view.add_row(name, *about, *cells)
        view.add_section()
    return view


def _over(difference: Mapping[str, Any] | None) -> Text:
    """The difference in improvement; green or red where its interval excludes zero."""
    if not difference or difference["improvement"] is None:
        return Text("")
    low, high = difference["improvement_ci"]
    return Text(_interval(difference["improvement"], [low, high]), "green" if low > 0 else "red" if high < 0 else "")


def _signed(share: float | None) -> str:
    return "–" if share is None else f"{share:+.1%}".replace("-", "\u2212")


def _interval(share: float | None, bounds: Sequence[float] | None) -> str:
    """`+12.3% [+8.0, +15.1]`."""
    if share is None or bounds is None:
        return _signed(share)
    low, high = (f"{100 * bound:+.1f}".replace("-", "\u2212") for bound in bounds)
    return f"{_signed(share)} [{low}, {high}]"
