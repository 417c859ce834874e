"""What is known of a configuration in a second, without Ray, an engine or the learner, is refused before these start.

Invariants: nothing is started, and nothing heavy imported; what is not here yet (prepared tasks, a model of a hub) is
made or fetched, since a run needs it first of all; whatever cannot be told cheaply is left to the run.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from actors.policy.model import ModelError, resolve
from envs import prompt, sandbox
from envs.benchmarks.loader import TaskError, limited, load
from envs.records import State, Task
from envs.sandbox import SandboxFailure, installed
from learner.config.load import RECORD, ConfigError
from learner.config.schema import Config
from learner.run import trackers

TRAJECTORIES = "trajectories.parquet"
"""File of a run's folder that `experts.path` is asked for."""


def require(cfg: Config, here: bool, policies: Iterable[str] | None = None, dry: bool = False) -> None:
    """Refuse what a run could not go on with.

    here: experiments run on this machine; policies: the models that act, by default the one that is trained; dry:
    packages of experiments are looked for, but not installed.

    Raises:
        ConfigError: names the key, and says what to do.
    """
    if reason := trackers.missing(cfg.run.track):
        raise ConfigError(reason)
    own = Path(cfg.run.dir) / cfg.run.name / TRAJECTORIES
    if cfg.experts.path and not (cfg.run.resume and own.exists()):
        _require_trajectories(Path(cfg.experts.path))
    backend = _require_sandbox(cfg, dry) if here else ""
    tasks = load_tasks(cfg)
    _require_served(cfg, tasks.values(), backend, here)
    for path in [cfg.model.path] if policies is None else policies:
        _require_context(cfg, path, _folder(path), tasks)
    if serves_expert(cfg):
        _folder(cfg.experts.model)


def serves_expert(cfg: Config) -> bool:
    """Whether a model of one's own explores."""
    return cfg.experts.kind == "llm" and not cfg.experts.endpoint and not cfg.experts.path


def here(cfg: Config) -> bool:
    """Whether experiments run on this machine: no cluster is named that a run would join."""
    return cfg.run.mode == "serial" or not os.environ.get("RAY_ADDRESS")


def load_tasks(cfg: Config) -> dict[str, Task]:
    """The tasks that the configuration names, by id, with the split that it gives them.

    Raises:
        ConfigError: a task cannot be had, or two have the same name.
    """
    tasks: dict[str, Task] = {}
    lacking: dict[str, str] = {}
    for split, names in (("held_in", cfg.tasks.held_in), ("held_out", cfg.tasks.held_out)):
        for name in names:
            try:
                task = dataclasses.replace(limited(load(name), cfg.tasks.limits), split=split)
            except TaskError as error:
                lacking[f"tasks.{split}={name}"] = str(error)
                continue
            if task.id in tasks:
                raise ConfigError(f"tasks.{split}={name}: another task is called {task.id} too: rename one")
            tasks[task.id] = task
    if lacking:
        raise ConfigError(_all_that_lacks(lacking))
    return tasks


def _all_that_lacks(lacking: Mapping[str, str]) -> str:
    """What to do about tasks that cannot be had, by setting: each reason once, however many tasks have it."""
    if len(lacking) == 1:
        return ": ".join(*lacking.items())
    alike: dict[str, list[str]] = {}
    for setting, reason in lacking.items():
        name = setting.partition("=")[2]
        plain = name.rpartition(":")[2]
        alike.setdefault(reason.replace(plain, "NAME"), []).append(plain)
    lines = [f"{reason}\n    NAME is {', '.join(names)}" for reason, names in alike.items()]
    return "\n  ".join([f"{len(lacking)} of the tasks cannot be had:", *lines])


def _require_trajectories(folder: Path) -> None:
    for name in (RECORD, TRAJECTORIES):
        if not (folder / name).is_file():
            raise ConfigError(
                f"experts.path={folder} has no {name}: give the folder of a run whose expert has explored, as "
                "`python learner/experts.py` leaves it"
            )


def _require_sandbox(cfg: Config, dry: bool) -> str:
    """The backend that answers here; none where experiments are simulated."""
    if cfg.sandbox.backend == "simulated":
        return ""
    try:
        backend = sandbox.require(cfg.sandbox.backend)
    except SandboxFailure as error:
        chosen = cfg.sandbox.backend
        other = "" if chosen == "auto" else "; sandbox.backend=auto takes the strongest that works"
        raise ConfigError(f"sandbox.backend={chosen}: {error}{other}") from error
    try:
        if cfg.sandbox.requirements:
            (installed.place if dry else sandbox.install)(cfg.sandbox.requirements)
    except SandboxFailure as error:
        raise ConfigError(f"sandbox.requirements={cfg.sandbox.requirements}: {error}") from error
    return backend


def _require_served(cfg: Config, tasks: Iterable[Task], backend: str, here: bool) -> None:
    """backend: empty where it is not known here; here: all experiments run on this machine."""
    for task in tasks:
        if cfg.sandbox.backend != "simulated" and task.limits.gpus:
            _require_cards(cfg, task, here)
        try:
            if backend:
                sandbox.require_serves(backend, task)
        except TaskError as error:
            raise ConfigError(str(error)) from error


def _require_cards(cfg: Config, task: Task, here: bool) -> None:
    gpus, need, hosts = cfg.sandbox.gpus, task.limits.gpus, cfg.sandbox.hosts
    actors = max(cfg.actors.count, cfg.actors.max)
    asked = f"task {task.id} asks for {need} GPUs and sandbox.gpus={gpus}"
    if need > len(set(gpus)):
        raise ConfigError(f"{asked}: name there the ids of cards that Ray does not have, or set tasks.limits.gpus=0")
    if here and hosts > 1:
        raise ConfigError(
            f"{asked}, all of which each of sandbox.hosts={hosts} has, on a node of its own: on one machine, set "
            "sandbox.hosts=1"
        )
    if here and not hosts and any(need > len(set(gpus[actor::actors])) for actor in range(actors)):
        raise ConfigError(
            f"{asked}, which {actors} actors share out: name more there (one card twice serves two experiments at "
            "once), or set actors.count and actors.max lower, or sandbox.hosts=1"
        )


def _folder(path: str) -> Path:
    try:
        return resolve(path)
    except ModelError as error:
        raise ConfigError(str(error)) from error


def _require_context(cfg: Config, path: str, folder: Path, tasks: Mapping[str, Task]) -> None:
    """Refuse a context longer than the model's, or one that has no room for a script; the latter by the texts alone,
    without what the chat template adds."""
    context, response, extent = cfg.model.context, cfg.model.response, prompt.Extent.of(cfg.prompt)
    if (most := _longest(path, folder)) and context > most:
        raise ConfigError(f"model.context={context}: {path} was made for {most} tokens at most")
    if not (folder / "tokenizer.json").is_file():
        return
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library's are bare
        raise ConfigError(f"model.path={path}: {folder}/tokenizer.json is damaged: {error}") from error
    for task in tasks.values():
        files = {task.script: (task.env_dir / task.script).read_text()}

        def count(text: str) -> int:
            return len(tokenizer.encode(text, add_special_tokens=False).ids)

        try:
            prompt.messages(task, State("initial", task.id, ""), files, count, context - response, extent)
        except prompt.PromptError as error:
            raise ConfigError(
                f"model.context={context} with model.response={response} is too small: {error}"
            ) from error


def _longest(path: str, folder: Path) -> int | None:
    """Most tokens of a sequence that the model was made for; None where it is not plainly said."""
    try:
        whole = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise ConfigError(f"model.path={path}: {folder}/config.json is damaged: {error}") from error
    config = whole.get("text_config", whole)
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    plain = scaling.get("rope_type", scaling.get("type", "default")) == "default"
    plain = plain and not any(isinstance(of_layer, dict) for of_layer in scaling.values())
    return config.get("max_position_embeddings") if plain else None
