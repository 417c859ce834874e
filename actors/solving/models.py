"""Which model the agent is: a run, a checkpoint, a folder or a hub id; unless told, the newest run that is done.

Invariants: a run that is not done, or only rehearsed (`config=smoke`), is taken only where it is named; a checkpoint is
told what its run told it, but for what is given.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from actors.solving.settings import PromptSettings, Settings, SolveError

REHEARSAL_STEPS = 3
"""A run of at most so many learner steps, as `config=smoke` has, has learned nothing to speak of."""
BEST, LAST = "best", "last"
TEMPLATE = ("model.thinking", "model.template_arguments")


def find(path: str, runs: Path = Path("runs")) -> str:
    """What `actors.policy.model.resolve` takes: the folder of a checkpoint's model, or the path as it is.

    path: `model.path`; runs: folder of the runs.

    Raises:
        SolveError: there is no such checkpoint, or no run that could be meant.
    """
    if path in ("", BEST, LAST):
        return str(_checkpoint(_newest_done(runs), path or BEST))
    given = Path(path).expanduser()
    for folder, which in ((given, BEST), (given.parent, given.name)):
        for run in (folder, runs / folder):
            if (run / "checkpoints").is_dir() and (which in (BEST, LAST) or which.startswith("step_")):
                return str(_checkpoint(run, which))
    return str(given / "hf") if (given / "hf" / "config.json").is_file() else path


def record_of(model: str) -> Path | None:
    """The configuration that the run of a checkpoint recorded; None of a model that no run left."""
    record = Path(model, "../../../config.yaml").resolve()
    return record if Path(model).parent.parent.name == "checkpoints" and record.is_file() else None


def as_in_its_run(settings: Settings, model: str) -> None:
    """Set what is left open of the prompt, thinking and the chat template as the run of a checkpoint recorded it.

    model: what `find` found; of a model that no run left nothing is set.
    """
    if not (record := record_of(model)):
        return
    try:
        kept = OmegaConf.load(record)
    except (OSError, ValueError, OmegaConfBaseException, yaml.YAMLError) as error:
        raise SolveError(f"{record} cannot be read: {str(error).splitlines()[0]}") from error
    for name in (*(f"prompt.{item.name}" for item in fields(PromptSettings)), *TEMPLATE):
        of_run = OmegaConf.select(kept, name)  # a run of an earlier version lacks keys
        if of_run is not None and OmegaConf.select(settings, name) in (-1, "auto", [], {}):
            OmegaConf.update(settings, name, of_run)


def _checkpoint(run: Path, which: str) -> Path:
    """The model of a run's checkpoint; of one without rewards the last is the best."""
    folder = run / "checkpoints"
    found = [path for path in folder.glob("step_*/hf") if path.parent.name[5:].isdecimal()]
    steps = sorted(found, key=lambda path: int(path.parent.name[5:]))
    wanted = folder / which / "hf"
    if which in (BEST, LAST) and not wanted.is_dir():
        if not steps:
            raise SolveError(f"{run} has no checkpoint yet: give another model.path")
        wanted = steps[-1]
    if not wanted.is_dir():
        names = ", ".join([BEST, *(step.parent.name for step in steps)])
        raise SolveError(f"{run} has no checkpoint {which}: it has {names}")
    return wanted.parent.resolve() / "hf"


def _newest_done(runs: Path) -> Path:
    found, others = [], []
    for status in runs.glob("*/status.json"):
        if reason := _unfit(status):
            others.append(f"{status.parent.name} ({reason})")
        else:
            found.append(status)
    if not found:
        passed = f"; not taken: {', '.join(sorted(others)[:5])}" if others else ""
        raise SolveError(
            f"{runs.resolve()} has no run that is done: train one with `make train`, or give model.path=RUN, a model "
            f"folder or a hub id{passed}"
        )
    return max(found, key=lambda status: status.stat().st_mtime).parent


def _unfit(status: Path) -> str:
    """Why a run is not taken unasked; empty where it is."""
    try:
        result = json.loads(status.read_text())["result"]
        steps = OmegaConf.select(OmegaConf.load(status.with_name("config.yaml")), "rl.steps", default=0)
        rehearsed = int(steps) <= REHEARSAL_STEPS
    except (OSError, ValueError, KeyError, TypeError, OmegaConfBaseException, yaml.YAMLError):
        return "its record cannot be read"
    if result != "done":
        return str(result)
    if not next(status.parent.glob("checkpoints/step_*/hf"), None):
        return "no checkpoint"
    return f"a rehearsal of {steps} steps" if rehearsed else ""
