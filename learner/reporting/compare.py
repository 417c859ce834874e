"""Several runs side by side: what `compare.html` shows of them; pure functions of what the runs left.

Invariant: a run is known by one label everywhere on the page, its name where no other run has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from learner.reporting import charts, costs
from learner.reporting.report_data import RunData

Runs = Mapping[str, RunData]
"""By label, in the order that the user named them."""


def named(runs: Sequence[RunData]) -> dict[str, RunData]:
    """The runs by label: the name, or the whole path where several have that name."""
    names = [run.name for run in runs]
    return {run.name if names.count(run.name) == 1 else str(run.dir): run for run in runs}


def page(runs: Runs) -> dict[str, Any]:
    """The variables of `compare.html`."""
    figures = {label: charts.named_stages(run.results) for label, run in runs.items()}
    names = list(dict.fromkeys(name for stages_of in figures.values() for name in stages_of))
    means = [name for name in names if name in charts.SPLIT_NAMES]
    return {
        "runs": runs,
        "colours": {label: charts.distinct(i) for i, label in enumerate(runs)},
        "names": [*(name for name in names if name not in means), *means],
        "means": means,
        "figures": figures,
        "last": {
            label: {name: list(stages.values())[-1] for name, stages in stages_of.items() if stages}
            for label, stages_of in figures.items()
        },
        "bars": Markup(charts.compared_bars({label: run.results for label, run in runs.items()}) or ""),
        "plots": [(title, note, Markup(svg)) for title, note, svg in _plots(runs) if svg],
        "costs": {label: costs.of_run(run) for label, run in runs.items()},
        "differences": differences({label: run.config for label, run in runs.items()}),
    }


def differences(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The keys whose values are not the same in all configurations, each with its values (a dash where it is absent).

    The runs' names and prices are left out.
    """
    flat = [dict(_flat(config)) for config in configs.values()]
    keys = dict.fromkeys(key for config in flat for key in config)
    values = {key: [config.get(key, "–") for config in flat] for key in keys}
    return {
        key: of_runs
        for key, of_runs in values.items()
        if len(set(of_runs)) > 1 and key != "run.name" and not key.startswith("report.")
    }


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _plots(runs: Runs) -> Iterable[tuple[str, str, str | None]]:
    """(title, note, SVG or None) of each plot."""
    rows = {label: run.rows for label, run in runs.items()}
    yield "Reward over steps", "mean over transitions", charts.overlay("steps", rows, "reward_mean")
    yield "Reward over time", "the same", charts.overlay("time", rows, "reward_mean", over_time=True)
    yield "Valid actions", "share of transitions", charts.overlay("valid", rows, "valid_rate")
    yield "Throughput", "response tokens per second of wall-clock time", charts.overlay("speed", rows, "tokens_per_s")
    yield "Staleness", "mean weight versions", charts.overlay("staleness", rows, "staleness_mean")
    yield "Log-prob gap", "between engine and learner", charts.overlay("gap", rows, "logprob_gap_mean")
    yield "Entropy", "of the policy", charts.overlay("entropy", rows, "entropy")
    yield "Seconds of a learner step", "wall-clock time", charts.overlay("seconds", rows, "seconds")
