"""As much of `verifiers.v1` (0.4.0) as `actors.verifiers_env` stands on, for where that package is not installed.

Names, arguments and what is called when are the published ones: tests that hold for this hold for the package.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
import typing
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

DataT, StateT, ConfigT, TaskT = (TypeVar(name) for name in ("DataT", "StateT", "ConfigT", "TaskT"))


class SandboxError(Exception):
    pass


class State(BaseModel):
    pass


class TaskData(BaseModel):
    model_config = ConfigDict(frozen=True)
    idx: int | None = None
    name: str | None = None
    prompt: str | None = None
    system_prompt: str | None = None


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TaskConfig(Config):
    pass


class TasksetConfig(Config):
    id: str = ""
    task: TaskConfig = TaskConfig()


class SubprocessConfig(Config):
    type: str = "subprocess"


class AgentConfig(Config):
    harness: Any = None
    runtime: Any = None


class EnvConfig(Config):
    taskset: Any = None


class Agents:
    pass


class Task(Generic[DataT, StateT, ConfigT]):
    def __init__(self, data: Any, config: Any = None):
        self.data, self.config = data, config

    def with_data(self, **update: Any) -> Any:
        return type(self)(self.data.model_copy(update=update), self.config)


class Taskset(Generic[TaskT, ConfigT]):
    def __init__(self, config: Any):
        self.config = config

    def __iter__(self):
        return (task.with_data(idx=idx) for idx, task in enumerate(self.load()))


class Env(Generic[ConfigT]):
    def __init__(self, config: Any):
        self.config = config
        self.taskset = _exported(config.taskset.id, Taskset)(config.taskset)

    @contextlib.asynccontextmanager
    async def serving(self):
        try:
            await self.start()
            yield
        finally:
            await self.stop()


def resolve_env_config(data: dict[str, Any]) -> Any:
    taskset = _config(_exported(data["taskset"]["id"], Taskset), -1)(**data["taskset"])
    return _config(_exported(taskset.id, Env), 0)(**{**data, "taskset": taskset})


def load_environment(config: Any) -> Any:
    return _exported(config.taskset.id, Env)(config)


def _config(plugin: type, place: int) -> Any:
    """The configuration that a class is written for: `Env[ITS]`, `Taskset[TASK, ITS]`."""
    return typing.get_args(plugin.__orig_bases__[0])[place]


def _exported(plugin: str, base: type) -> Any:
    module = importlib.import_module(plugin.replace("-", "_"))
    (found,) = [one for name in module.__all__ if issubclass(one := getattr(module, name), base)]
    return found


def install() -> types.ModuleType:
    """Have `import verifiers.v1` find this module."""
    package = types.ModuleType("verifiers")
    package.v1 = sys.modules[__name__]  # type: ignore[attr-defined]
    sys.modules |= {"verifiers": package, "verifiers.v1": package.v1}
    return package.v1
