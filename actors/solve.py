"""Put a trained agent to work: `python actors/solve.py PATH [key=value …] [--steps N] [--approve]`.

PATH is a task folder, the name of a built-in task, or a plain script that prints its score (`metric=accuracy`). The
agent is a checkpoint, a hub model, or a model behind an OpenAI-compatible endpoint. Each proposed change is shown as a
diff and runs in the sandbox; the best script and a log of what was tried go to a folder of their own. With --approve
nothing runs before you agree, and what you answer instead of yes or no is taken as a hint.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.text import Text

from actors.policy.model import ModelError, resolve
from actors.solving.agents import EndpointAgent, PolicyAgent, newest_checkpoint
from actors.solving.solver import solve
from actors.solving.user_script import PrintedScoreRunner, as_task
from actors.solving.view import View
from envs.admission import node_capacity
from envs.benchmarks.loader import TaskError, load
from envs.environment import Environment
from envs.errors import FAILURES, UserError
from envs.experiments import SandboxRunner
from envs.records import Task
from envs.sandbox import SandboxPool
from envs.workspace import SnapshotStore


@dataclass
class ModelSettings:
    path: str = ""
    """Checkpoint (its hf folder), hub id, or builtin:smollm2-135m; empty: the newest checkpoint under runs/."""
    endpoint: str = ""
    """OpenAI-compatible URL; `path` is then the name of the model there."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the endpoint's key."""
    context: int = 8192
    """Tokens of prompt and response together."""
    response: int = 512
    """Most tokens of one response."""
    thinking: list[str] = field(default_factory=list)
    """What begins the model's thinking and what ends it; empty: what its chat template names."""
    template_arguments: dict[str, Any] = field(default_factory=dict)
    """Of the chat template, as model.template_arguments.enable_thinking=false; an endpoint gets them too."""
    dtype: str = "bfloat16"
    temperature: float = 1.0


@dataclass
class ActorSettings:
    """Of the engine that serves a checkpoint or hub model."""

    sequences: int = 1
    gpus: float = 0.0
    cpus: float = 2.0
    kv_cache_gb: float = 1.0
    deadline: float = 600.0


@dataclass
class RunSettings:
    """As which run the engine's figures are told."""

    name: str = "solve"


@dataclass
class Settings:
    run: RunSettings = field(default_factory=RunSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    actors: ActorSettings = field(default_factory=ActorSettings)
    metric: str = ""
    """plain script: the metric as the script prints it."""
    direction: str = ""
    """plain script: maximize or minimize; empty: by the metric's name."""
    about: str = ""
    """plain script: what the agent is told of it."""
    seconds: float = 600.0
    """plain script: wall-clock limit of a run."""
    memory_mb: int = 4096
    """plain script: memory limit of a run."""
    sandbox: str = "auto"
    """auto, docker, gvisor or process."""
    out: str = ""
    """Folder of the results; empty: solved/NAME-TIME."""
    seed: int = 0


class SolveError(UserError):
    """A request that cannot be carried out; the message names the key or path and what to do."""


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 failed, 2 refused before anything was started, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="solve.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("path", metavar="PATH")
    parser.add_argument("settings", metavar="key=value", nargs="*", help="e.g. model.path=runs/quickstart/… metric=AUC")
    parser.add_argument("--steps", type=int, default=10, help="most actions (default: %(default)s)")
    parser.add_argument("--approve", action="store_true", help="ask before each experiment")
    parsed = parser.parse_intermixed_args(arguments)
    console = Console()
    try:
        settings = read_settings(parsed.settings)
        with tempfile.TemporaryDirectory(prefix="mlagent-solve-") as work:
            task = find_task(parsed.path, settings, Path(work))
            asyncio.run(_solve(task, parsed.path, settings, parsed.steps, parsed.approve, console))
    except (SolveError, ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def read_settings(given: list[str]) -> Settings:
    """Raises SolveError for an unknown key or a value of the wrong type."""
    if wrong := [text for text in given if "=" not in text]:
        raise SolveError(f"{wrong[0]}: after PATH come settings such as model.path=FOLDER or metric=accuracy")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Settings), OmegaConf.from_dotlist(given))
    except OmegaConfBaseException as error:
        raise SolveError(" ".join(str(error).split())) from error
    if merged.direction not in ("", "maximize", "minimize"):
        raise SolveError(f"direction={merged.direction}: choose maximize or minimize")
    if merged.model.endpoint and not merged.model.path:
        raise SolveError("model.endpoint needs model.path: the name of the model there")
    return merged


def find_task(path: str, settings: Settings, copy: Path) -> Task:
    """The task that PATH is. Raises SolveError, TaskError."""
    script = Path(path)
    if not script.is_file():
        return load(path)
    if not settings.metric:
        raise SolveError(
            f"{path} is a script: say which of the numbers that it prints is its score, as metric=accuracy"
        )
    return as_task(
        script, settings.metric, settings.direction, settings.about, settings.seconds, settings.memory_mb, copy
    )  # fmt: skip


async def _solve(task: Task, path: str, settings: Settings, steps: int, approve: bool, console: Console) -> None:
    sandboxes = SandboxPool(settings.sandbox)
    kind = PrintedScoreRunner if Path(path).is_file() else SandboxRunner
    environment = Environment(
        {task.id: task}, kind(sandboxes, node_capacity(), settings.seed), SnapshotStore("memory://solve")
    )
    agent = None
    try:
        baseline = await asyncio.to_thread(environment.baseline, task.id)
        if baseline.score_after is None:
            raise TaskError(f"{path} itself ended as {baseline.outcome}, mend it first:\n{baseline.log_tail}")
        tested = baseline.withheld and baseline.withheld.test
        task = dataclasses.replace(task, m_init=baseline.score_after, m_init_test=tested)
        environment.tasks[task.id] = task
        console.print(
            Text(f"{task.id}: {task.metric} = {task.m_init:.5g}, to {task.direction} ({sandboxes.name} sandbox)")
        )
        agent = _agent(settings, environment, console)
        await agent.start()
        folder = Path(settings.out or f"solved/{task.id}-{time.strftime('%Y%m%d-%H%M%S')}")
        folder.mkdir(parents=True, exist_ok=True)
        view = View(console, folder, task, approve)
        view.end(await solve(environment, task.id, agent.propose, steps, settings.seed, view.ask, view.tell))
    finally:
        if agent:
            agent.close()
        environment.close()


def _agent(settings: Settings, environment: Environment, console: Console) -> EndpointAgent | PolicyAgent:
    """Raises SolveError, ModelError."""
    if settings.model.endpoint:
        return EndpointAgent(settings.model, environment)
    path = settings.model.path or newest_checkpoint()
    if not path:
        raise SolveError("there is no checkpoint under runs/: train one with `make train`, or give model.path")
    console.print(Text(f"the agent is {path}; its engine starts"))
    return PolicyAgent(settings, resolve(str(path)), environment)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
