"""Tables and plots of what the proof's runs have left; nothing is computed here that is not in their files.

Invariant: a run that has not been made yet is left out, so that results can be looked at on the way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from learner.evaluation.evaluation import STAGES
from learner.figures.text import SPLITS, number, percent
from learner.reporting import charts
from learner.run import journal
from tests.prove.stages import ABLATIONS, EVALUATION, MAIN


def markdown(runs: Path) -> str:
    """All tables."""
    return "\n".join([*_main(runs), *_agents(runs), *_ablations(runs)])


def draw(runs: Path, folder: Path) -> Iterator[Path]:
    """Write the plots as SVG files on white; yields their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = journal.read(runs / MAIN)
    compared = {stage.name: journal.read(runs / stage.name) for stage in ABLATIONS if (runs / stage.name).exists()}
    plots = {
        "evaluation": charts.evaluation_bars(_json(runs / MAIN / "evaluation.json")),
        "reward": charts.reward(rows),
        "valid": charts.valid_rate(rows),
        "entropy": charts.figure(rows, "entropy"),
        "ablations-steps": charts.overlay("ablations-steps", compared, "reward_mean"),
        "ablations-time": charts.overlay("ablations-time", compared, "reward_mean", over_time=True),
    }
    for name, svg in plots.items():
        if svg:
            file = folder / f"{name}.svg"
            file.write_text(svg.replace("<svg ", '<svg style="background:#fff" ', 1))
            yield file


def _main(runs: Path) -> Iterable[str]:
    found = _json(runs / MAIN / "evaluation.json")
    for split, label in SPLITS.items():
        stages = found["splits"][split]
        yield from _table(
            f"{label}: {sum(task['split'] == split for task in found['tasks'])} tasks",
            ("stage", "attempts", "mean reward [95 %]", "gain over the stage before [95 %]", "valid", "distinct valid"),
            [
                (
                    stage, of["n"], _with_interval(of, "mean_reward"), _with_interval(of, "gain"),
                    percent(of["valid_rate"]), number(of["distinct_valid"]),
                )
                for stage, of in stages.items()
            ],
        )  # fmt: skip
    yield from _table(
        "by task: mean reward (valid actions)",
        ("task", "split", *STAGES),
        [(task["task"], SPLITS[task["split"]], *map(_short, task["stages"].values())) for task in found["tasks"]],
    )


def _agents(runs: Path) -> Iterable[str]:
    file = runs / EVALUATION.name / "evaluation.json"
    if not file.exists():
        return
    found = _json(file)
    for split, label in SPLITS.items():
        rows = []
        for agent, settings in found["splits"][split].items():
            for setting, of in settings.items():
                over = of.get("over", {})
                rows.append(
                    (
                        agent,
                        setting,
                        of["n"],
                        _with_interval(of, "improvement"),
                        percent(of["gap"]),
                        percent(of["valid_rate"]),
                        _with_interval(of, "reward"),
                        _with_interval(over, "reward"),
                    )
                )
        heads = ("agent", "setting", "attempts", "improvement [95 %]", "gap closed", "valid", "reward [95 %]")
        yield from _table(f"agents, {label}", (*heads, "reward over fine-tuned [95 %]"), rows)


def _ablations(runs: Path) -> Iterable[str]:
    rows = []
    for stage in ABLATIONS:
        if not (runs / stage.name / "evaluation.json").exists():
            continue
        splits, steps = _json(runs / stage.name / "evaluation.json")["splits"], journal.read(runs / stage.name)
        for split, label in SPLITS.items():
            for name in ("sft", "rl"):
                if of := splits[split].get(name):
                    minutes = f"{sum(step['seconds'] for step in steps) / 60:.1f}" if name == "rl" else ""
                    rows.append(
                        (
                            stage.about,
                            label,
                            name,
                            minutes,
                            _with_interval(of, "mean_reward"),
                            _with_interval(of, "gain"),
                            percent(of["valid_rate"]),
                            number(of["distinct_valid"]),
                        )
                    )
    heads = ("ablation", "split", "stage", "minutes of RL", "mean reward [95 %]", "gain [95 %]", "valid")
    yield from _table("ablations", (*heads, "distinct valid"), rows)


def _short(of: dict[str, Any]) -> str:
    return f"{number(of['mean_reward'])} ({percent(of['valid_rate'])})"


def _with_interval(of: dict[str, Any], name: str) -> str:
    if of.get(name) is None:
        return "–"
    low, high = of[f"{name}_ci"]
    return f"{of[name]:.3f} [{low:.3f}, {high:.3f}]"


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterable[str]:
    yield from (f"\n**{title}**\n", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}")
    yield from (f"| {' | '.join(map(str, row))} |" for row in rows)


def _json(file: Path) -> Any:
    return json.loads(file.read_text())
