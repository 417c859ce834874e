"""Evaluate agents on tasks: `python learner/evaluate.py AGENT … key=value …` (`--help` says what an agent is).

They are tried as single steps from fixed states and as whole episodes, beside baselines, with the same seeds and budget
(learner/evaluation/scores.py defines the figures). Invariant: no agent has the name of another.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from envs.errors import FAILURES
from learner.config.load import RECORD, ConfigError, load
from learner.config.schema import Config
from learner.config.usage import KEYS, answered

if TYPE_CHECKING:
    from actors.agents import Agent

USAGE = f"""usage: python learner/evaluate.py [AGENT ...] [key=value ...]

An AGENT is
  a run's folder             its newest checkpoint and the model it began with, on its tasks and with its settings
  a model folder or hub id   served by actors of our own
  URL#MODEL                  a model behind an OpenAI-compatible endpoint (its key in experts.key_variable)
  greedy:ANY OF THESE        an AIDE-style greedy search with it, in whole episodes
Baselines are evaluated too (evaluation.baselines). The first agent is the one that others are compared with.
evaluation.json, attempts.jsonl and the experiment cache are kept in evaluation.folder, or in RUN/evaluation; then the
run's report.html is written again with it.
Keys of `evaluation` say how much is tried: attempts, seed, states, steps, baselines; `tasks` on what.

{KEYS}
"""
EVALUATION = "evaluation"
"""Folder of a run where its evaluation is kept, and the report finds it."""
SEARCH = "greedy:"
SETTING = re.compile(r"[a-z_]+(\.\w+)*=")


def main(arguments: Sequence[str]) -> int:
    """Exit code as of learner/main.py."""
    if (code := answered(arguments, USAGE)) is not None:
        return code
    try:
        names, cfg = read(arguments)
        agents = listed(names, cfg.evaluation.baselines)

        from learner.run import beforehand  # pandas and more, kept out of --help

        policies = [agent.model for agent in agents if agent.model and not agent.url]
        beforehand.require(cfg, beforehand.here(cfg), policies)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130

    folder = Path(cfg.evaluation.folder).resolve()
    try:
        from learner.evaluation import trials  # heavy imports, kept out of --help

        trials.run(cfg, agents, folder)
        if report := reported(folder):
            print(f"report {report}", flush=True)
    except FAILURES as error:
        print(f"error: {getattr(error, 'cause', error)}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1  # a task that cannot be had is refused, too
    except KeyboardInterrupt:
        print("interrupted: what ran is in the cache, and is not run again", file=sys.stderr)
        return 130
    return 0


def reported(folder: Path) -> Path | None:
    """The report of the run whose evaluation is in that folder, written again with it; None where it is of no run.

    Raises:
        ReportError: a file of the run is damaged.
    """
    from learner.reporting.report import write_report  # matplotlib and more, kept out of --help

    run_dir = folder.parent
    return write_report(run_dir) if folder.name == EVALUATION and (run_dir / RECORD).is_file() else None


def read(arguments: Sequence[str]) -> tuple[list[str], Config]:
    """The agents that the command line names, and its configuration, which begins with that of the first run in it.

    Raises:
        ConfigError: an argument cannot be used.
    """
    names = [argument for argument in arguments if not argument.startswith("-") and not SETTING.match(argument)]
    settings = [argument for argument in arguments if argument not in names]
    if runs := [Path(name.removeprefix(SEARCH)) for name in names if _is_run(name.removeprefix(SEARCH))]:
        of_run = f"config={runs[0] / RECORD}", f"evaluation.folder={runs[0] / EVALUATION}", "run.resume=false"
        settings = [*of_run, *settings]
    cfg = load(settings)
    if not names and not cfg.evaluation.baselines:
        raise ConfigError("nobody is to be evaluated: name a run, a model or an endpoint, or set evaluation.baselines")
    return names, cfg


def listed(names: Sequence[str], baselines: Sequence[str]) -> list[Agent]:
    """The agents that the names stand for, each once, then the baselines.

    Raises:
        ConfigError: a run has no checkpoint, or an endpoint's model is missing.
    """
    from actors.agents import ENDPOINT, EXPERT, POLICY, RANDOM, Agent

    given = {
        "random": Agent("random", RANDOM),
        "expert": Agent("expert", EXPERT),
        "greedy": Agent("greedy", EXPERT, search=True),
    }
    agents = []
    for whole in names:
        search, name = whole.startswith(SEARCH), whole.removeprefix(SEARCH)
        url, _, model = name.partition("#")
        if url.startswith(("http://", "https://")):
            if not model:
                raise ConfigError(f"{name}: say which model of the endpoint, as in {name}#MODEL")
            agents.append(Agent(whole, ENDPOINT, model, url, search))
        else:
            models = _of_run(Path(name)) if _is_run(name) else [name]
            models = [str(Path(path).resolve()) if Path(path).is_dir() else path for path in models]
            agents += [Agent(f"{SEARCH if search else ''}{path}", POLICY, path, search=search) for path in models]
    agents = [*dict.fromkeys(agents), *(given[name] for name in baselines)]
    short = [_short(agent.name) for agent in agents]
    return [
        dataclasses.replace(agent, name=name) if short.count(name) == 1 else agent
        for agent, name in zip(agents, short, strict=True)
    ]


def _short(name: str) -> str:
    """The last part that says something: `quickstart/step_10`, `Qwen2.5-7B`, an endpoint's model."""
    search = SEARCH if name.startswith(SEARCH) else ""
    whole = name.removeprefix(SEARCH).rpartition("#")[2].removeprefix("builtin:")
    parts = [part for part in whole.split("/") if part not in ("hf", "checkpoints")]
    return search + "/".join(parts[-2:] if parts[-1].startswith("step_") else parts[-1:])


def _is_run(name: str) -> bool:
    return (Path(name) / RECORD).is_file() and (Path(name) / "checkpoints").is_dir()


def _of_run(folder: Path) -> list[str]:
    """The model that a run began with, and its newest checkpoint."""
    found = [path for path in folder.glob("checkpoints/step_*/hf") if path.parent.name[5:].isdecimal()]
    checkpoints = sorted(found, key=lambda path: int(path.parent.name[5:]))
    if not checkpoints:
        raise ConfigError(f"{folder} has no checkpoint yet")
    return [load([f"config={folder / RECORD}", "run.resume=false"]).model.path, str(checkpoints[-1])]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
