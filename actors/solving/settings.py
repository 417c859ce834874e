"""The keys of `actors/solve.py`, each with its help.

Invariant: a wrong key or value is refused before anything is started, in one line.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table
from rich.text import Text

from envs.errors import UserError
from envs.sandbox import packages

SANDBOXES = ("auto", "docker", "gvisor", "process")
DIRECTIONS = ("", "maximize", "minimize")
TOLD = ("auto", "thought", "whole")
DTYPES = ("bfloat16", "float16", "float32")


class SolveError(UserError):
    """A request that cannot be carried out; the message names the key or path and what to do."""


def key(default: Any, help: str, least: float = 0, positive: bool = False) -> Any:
    """least, positive: what a number must be."""
    made = {"default_factory": default} if callable(default) else {"default": default}
    return field(**made, metadata={"help": help, "least": least, "positive": positive})


@dataclass
class ModelSettings:
    path: str = key("", "a run (its name or folder), RUN/best, a checkpoint, `best`, a folder, a hub id, or "
                        "builtin:smollm2-135m; empty: the best checkpoint of the newest run that is done")  # fmt: skip
    endpoint: str = key("", "OpenAI-compatible URL; model.path is then the name of the model there")
    key_variable: str = key("OPENAI_API_KEY", "environment variable that holds the endpoint's key")
    context: int = key(8192, "tokens of prompt and response together", positive=True)
    response: int = key(512, "most tokens of one response", positive=True)
    thinking: list[str] = key(list, "what begins the model's thinking and what ends it; empty: as its template says")
    template_arguments: dict[str, Any] = key(dict, "of the chat template, as model.template_arguments.NAME=VALUE")
    dtype: str = key("bfloat16", f"number format of a served model: {', '.join(DTYPES)}")
    temperature: float = key(1.0, "of sampling")


@dataclass
class ActorSettings:
    """Of the engine that serves a checkpoint or hub model."""

    gpus: float = key(0.0, "GPUs of the engine, or a share of one; 0: the CPU")
    gpu_memory: float = key(0.0, "share of a GPU's memory that the engine may take; 0: by actors.gpus")
    cpus: float = key(2.0, "cores of the engine", positive=True)
    kv_cache_gb: float = key(1.0, "GiB of the engine's cache of keys and values, on a CPU", positive=True)
    deadline: float = key(600.0, "seconds that the engine has for its start and for one response", positive=True)


@dataclass
class PromptSettings:
    """What the agent is told, as in training: what is left open is as the agent's run has it, else by model.context."""

    history: int = key(-1, "past actions that are shown, the newest; -1: as in training", least=-1)
    actions: str = key("auto", f"how actions are told: {', '.join(TOLD)}")
    observation: int = key(-1, "characters that are kept of what a run prints, its end; -1: as in training", least=-1)
    descriptor: int = key(-1, "characters of task_descriptor.txt that are shown; -1: as in training", least=-1)
    preview: int = key(-1, "characters of a preview of the data; -1: as in training", least=-1)


@dataclass
class LimitSettings:
    """What a run of the script may use; 0, and of GPUs -1: as the task states, and of a plain script as told here."""

    seconds: float = key(0.0, "wall-clock limit of a run; 0: as the task states, 600 of a plain script")
    cpus: float = key(0.0, "cores of a run; 0: as the task states, 1 of a plain script")
    memory_mb: int = key(0, "memory limit of a run; 0: as the task states, 4096 of a plain script")
    gpus: int = key(
        -1, "GPUs of a run, of those that gpus names; -1: as the task states, none of a plain script", least=-1
    )
    disk_mb: int = key(0, "limit of the files that a run writes; 0: as the task states, 1024 of a plain script")
    processes: int = key(0, "processes and threads of a run; 0: as the task states, 64 of a plain script")


@dataclass
class TaskSettings:
    limits: LimitSettings = field(default_factory=LimitSettings)


@dataclass
class Settings:
    model: ModelSettings = field(default_factory=ModelSettings)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    actors: ActorSettings = field(default_factory=ActorSettings)
    tasks: TaskSettings = field(default_factory=TaskSettings)
    metric: str = key("", "plain script: name of the score as the script prints it, or the key of a JSON line")
    direction: str = key("", "plain script: maximize or minimize; empty: as the metric's name says, if it is known")
    about: str = key("", "plain script: what the agent is told of it")
    folder: str = key("", "plain script: the project's folder, which is copied and in which it runs; empty: its own")
    files: list[str] = key(list, "plain script: other files that the agent may change, as files=[model.py,lib/*.py]")
    packages: str = key("base", "plain script: what it can import: base, torch, or more, as packages=[base,xgboost]")
    requirements: str = key("", "a requirements or lock file of all that a script can import, or paper, a ready set")
    gpus: list[int] = key(list, "ids of the GPUs that a run may have (tasks.limits.gpus), as gpus=[0]")
    sandbox: str = key("auto", f"one of {', '.join(SANDBOXES)}")
    out: str = key("", "folder of the results; empty: solved/NAME-TIME")
    seed: int = key(0, "of sampling, and of the random numbers that a script starts with")


def read_settings(given: list[str]) -> Settings:
    """Raises SolveError for an unknown key or a value that it cannot have."""
    merged = OmegaConf.structured(Settings)
    known = dict(listed())
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise SolveError(
                f"{text}: after PATH come settings such as model.path=RUN or metric=accuracy (--help lists them), and "
                "what the script is to get comes after `--`"
            )
        if name not in known and not name.startswith("model.template_arguments."):
            last = f".{name.rpartition('.')[2]}"
            near = [one for one in known if one.endswith(last)] or difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "--help lists them"
            raise SolveError(f"unknown setting {name}: {hint}")
        if "${" in value or value == "???":  # which OmegaConf would fill in when it is used
            raise SolveError(f"{text}: ${{…}} and ??? are not filled in here: write out what is meant")
        try:
            if known.get(name) == "str":  # as it is: a name such as `a: b` is no YAML
                OmegaConf.update(merged, name, value.strip("[]").replace(" ", "") if name == "packages" else value)
            elif name == "files":  # nor is *.py
                OmegaConf.update(merged, name, _listed(value))
            else:
                merged = OmegaConf.merge(merged, OmegaConf.from_dotlist([text]))
        except (OmegaConfBaseException, ValueError, TypeError, yaml.YAMLError) as error:
            raise SolveError(f"{text}: {str(error).splitlines()[0]}") from error
    _check(merged)
    return merged


def _listed(text: str) -> list[str]:
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return [one for item in inner.split(",") if (one := item.strip(" '\""))]


def _check(settings: Settings) -> None:
    """Raises SolveError."""
    chosen = {"sandbox": SANDBOXES, "direction": DIRECTIONS, "prompt.actions": TOLD, "model.dtype": DTYPES}
    for name, choices in chosen.items():
        if (value := OmegaConf.select(settings, name)) not in choices:
            raise SolveError(f"{name}={value}: choose {', '.join(filter(None, choices))}")
    if settings.packages.partition(",")[0] not in packages.SETS:
        raise SolveError(
            f"packages={settings.packages}: begin with {' or '.join(packages.SETS)}, as packages=[base,xgboost]"
        )
    if settings.requirements and settings.packages != "base":
        raise SolveError("requirements are all that a script can import: leave packages out, or them")
    if min(settings.gpus, default=0) < 0:
        raise SolveError(f"gpus={list(settings.gpus)}: ids of GPUs are 0 or more")
    if settings.model.endpoint and not settings.model.path:
        raise SolveError("model.endpoint needs model.path: the name of the model there")
    if not 0 < settings.model.response < settings.model.context:
        raise SolveError(
            f"model.response={settings.model.response} must leave room for a prompt in model.context="
            f"{settings.model.context}"
        )
    marks = settings.model.thinking
    if len(marks) not in (0, 2) or not all(isinstance(one, str) for one in marks):  # YAML reads `a: b` as no text
        raise SolveError("model.thinking has two marks, as model.thinking=[<think>,</think>]")
    for item, name in _fields(Settings):
        value, least = OmegaConf.select(settings, name), item.metadata["least"]
        if isinstance(value, int | float):
            enough = value > 0 if item.metadata["positive"] else value >= least
            if not enough or value == float("inf"):
                what = "above 0" if item.metadata["positive"] else f"from {least} on"
                raise SolveError(f"{name}={value}: it must be a number {what}")


def listed(of: Any = Settings, before: str = "") -> Iterator[tuple[str, str]]:
    """(name, type) of each setting."""
    for item, name in _fields(of, before):
        yield name, str(item.type)


def _fields(of: Any, before: str = "") -> Iterator[tuple[dataclasses.Field, str]]:
    for item in dataclasses.fields(of):
        section = item.default_factory
        if dataclasses.is_dataclass(section):
            yield from _fields(section, f"{before}{item.name}.")
        else:
            yield item, f"{before}{item.name}"


def show(console: Console) -> None:
    """Print each setting with its help and default."""
    table = Table.grid(padding=(0, 2))
    for item, name in _fields(Settings):
        default = item.default if item.default_factory is dataclasses.MISSING else ""
        told = f" [{default}]" if default != "" else ""
        table.add_row(Text(f"  {name}", "cyan"), Text.assemble(item.metadata["help"], (told, "green")))
    console.print(Text("\nsettings, with their defaults:"))
    console.print(table)
