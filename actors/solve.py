"""Put a trained agent to work: `python actors/solve.py PATH [key=value …] [options] [-- ARGUMENT …]`.

PATH is a task folder, the name of a built-in task, or a plain script or notebook that prints its score
(`metric=accuracy`); what stands after `--` is handed to that script. The agent is a run's checkpoint, a hub model, or a
model behind an OpenAI-compatible endpoint. Each proposed change is shown as a diff and runs in the sandbox; the best
script, its diff and a log of what was tried go to a folder of their own. With --approve nothing runs before you agree,
and what you answer instead of yes or no is taken as a hint.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import difflib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from actors.policy.endpoint import Reply
from actors.policy.model import ModelError, resolve
from actors.solving import models, user_script
from actors.solving.agents import EndpointAgent, PolicyAgent
from actors.solving.background import beside
from actors.solving.direction import of_name
from actors.solving.results import BEST, ENGINE_LOG, Results
from actors.solving.settings import Settings, SolveError, read_settings, show
from actors.solving.solver import Propose, Solution, Tell, solve
from actors.solving.source import NOTEBOOK
from actors.solving.user_script import ScriptEnvironment, ScriptRunner, UserScript
from actors.solving.view import View
from envs.admission import node_capacity
from envs.benchmarks.loader import TaskError, limited, load
from envs.environment import Environment
from envs.errors import FAILURES, UserError
from envs.experiments import SandboxRunner
from envs.records import Direction, Outcome, State, StepResult, Task
from envs.sandbox import SandboxPool
from envs.sandbox.requirement_files import RequirementsError
from envs.workspace import SnapshotStore
from learner.config.defaults import settle_prompt
from learner.config.load import ConfigError
from learner.config.load import load as configure
from reward import Terms, reward

SCRIPTS = (".py", NOTEBOOK)
OF_SCRIPTS = ("metric", "direction", "about", "folder", "files", "packages")
"""Settings of plain scripts alone."""
HIGHER, LOWER = ("higher", "h", "maximize"), ("lower", "l", "minimize")


class Unfit(UserError):
    """A script or task that does not score as it is; the message says what it printed."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be solved."""

    path: str
    task: Task
    script: UserScript | None
    """Where it is a plain script."""


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 done, 1 failed, 2 refused before anything was started, 130 interrupted."""
    given = list(arguments)
    own, handed = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    console, parser = Console(), _parser()
    if {"-h", "--help"} & set(own):
        parser.print_help()
        show(console)
        return 0
    parsed = parser.parse_intermixed_args(own)
    try:
        settings = read_settings(parsed.settings)
        if parsed.steps < 1:
            raise SolveError(f"--steps {parsed.steps}: give at least 1")
        with tempfile.TemporaryDirectory(prefix="mlagent-solve-") as work:
            job = find(parsed.path, settings, handed, parsed.score_command, Path(work), console)
            if job.task.limits.gpus > len(set(settings.gpus)):
                raise SolveError(
                    f"{parsed.path} asks for {job.task.limits.gpus} GPUs: name their ids, as gpus=[0], or set "
                    "tasks.limits.gpus=0"
                )
            asyncio.run(_solve(job, settings, parsed.steps, parsed.approve, console, parsed.verbose))
    except (ConfigError, SolveError, ModelError, TaskError, RequirementsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="solve.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("path", metavar="PATH")
    parser.add_argument("settings", metavar="key=value", nargs="*", help="e.g. metric=AUC model.path=quickstart/best")
    parser.add_argument("--steps", type=int, default=10, help="most actions (default: %(default)s)")
    parser.add_argument("--approve", action="store_true", help="ask before each experiment")
    parser.add_argument(
        "--verbose", action="store_true",
        help="show whole prompts and answers, and what an action on a task earns in training",
    )  # fmt: skip
    parser.add_argument(
        "--score-command", default="", metavar="COMMAND",
        help="plain script: run this after it, in the same folder of the sandbox; its last line is the score",
    )  # fmt: skip
    return parser


def find(path: str, settings: Settings, handed: Sequence[str], score_command: str, copy: Path, console: Console) -> Job:
    """What PATH is. Raises SolveError, TaskError."""
    script = Path(path).expanduser()
    if script.is_file():
        if not (settings.metric or score_command):
            raise SolveError(
                f"{path} is a script: say which of the numbers that it prints is its score, as metric=accuracy, or "
                "give a --score-command"
            )
        way = _direction(settings, console)
        found = user_script.read(script, settings, way, handed, score_command, copy)
        found = dataclasses.replace(found, task=limited(found.task, settings.tasks.limits))
        return Job(path, found.task, found)
    if script.suffix in SCRIPTS:
        beside_it = [file.name for file in script.parent.glob("*") if file.suffix in SCRIPTS]
        near = difflib.get_close_matches(script.name, beside_it, n=1)
        raise SolveError(f"there is no file {path}" + (f": did you mean {script.with_name(near[0])}?" if near else ""))
    if handed or score_command:
        raise SolveError(f"{path} is no script: a task has its own grader, and takes no arguments or score command")
    job = Job(path, limited(load(path), settings.tasks.limits), None)
    for name in OF_SCRIPTS:
        if (value := settings[name]) != read_settings([])[name]:
            raise SolveError(f"{name}={value} is for a plain script: {path} is a task, which states its own")
    return job


def _direction(settings: Settings, console: Console) -> Direction:
    """Of a plain script's metric; a person is asked where its name does not tell. Raises SolveError."""
    if settings.direction:
        return Direction(settings.direction)
    if way := of_name(settings.metric):
        return way
    metric = settings.metric or "score"
    if sys.stdin.isatty():
        said = ""
        with contextlib.suppress(EOFError):  # Ctrl-D is no answer
            said = console.input(f"is a higher or a lower {metric} better? ").strip().lower()
        if said in (*HIGHER, *LOWER):
            return Direction.MAXIMIZE if said in HIGHER else Direction.MINIMIZE
    raise SolveError(
        f"whether a higher or a lower {metric} is better is not known: give direction=maximize or direction=minimize"
    )


def _in_full(agent: Any, view: View, terms: Terms | None, task: Task) -> tuple[Propose, Tell]:
    """The agent and the view, which also show whole prompts and answers, and what a task's action earns in training."""

    async def propose(told: Task, state: State, seed: int) -> Reply:
        reply = await agent.propose(told, state, seed)
        view.asked(agent.prompted, reply)
        return reply

    def tell(result: StepResult, found: Solution) -> None:
        view.tell(result, found)
        if terms and result.outcome is not Outcome.INFRA_FAILURE and not result.observation.startswith("not run"):
            worth = reward(result, task, terms)
            parts = ", ".join(f"{name} {value:.3f}" for name, value in worth.parts.items())
            view.say(f"reward {worth.value:.3f} ({parts})", "dim")

    return propose, tell


def _reward(model: str) -> Any:
    """The section `reward` of the run that left the agent, else as it is unless told otherwise."""
    record = models.record_of(model)
    return configure([f"config={record}", "run.resume=false"] if record else []).reward


async def _solve(
    job: Job, settings: Settings, steps: int, approve: bool, console: Console, verbose: bool = False
) -> None:
    out = Path(settings.out or f"solved/{job.task.id}-{time.strftime('%Y%m%d-%H%M%S')}").expanduser()
    if out.is_file():
        raise SolveError(f"out={out} is a file: give a folder")
    if (out / BEST).exists():
        raise SolveError(f"out={out} has the results of another session: choose another folder, or move it away")
    model = settings.model.path if settings.model.endpoint else models.find(settings.model.path)
    folder = None if settings.model.endpoint else resolve(model)
    models.as_in_its_run(settings, model)
    settle_prompt(settings.prompt, settings.model.context)
    environment, agent, view = _environment(job, settings), None, None
    task = job.task
    try:
        task = dataclasses.replace(task, **await _start(job, environment))
        environment.tasks[task.id] = task
        sources, project = (job.script.sources, job.script.folder) if job.script else ({}, task.env_dir)
        results = Results(out, task, sources, project)
        view = View(console, results, task, environment.files(environment.initial_state(task.id)), approve)
        sandbox = environment.runner.name
        view.say(f"{task.id}: {task.metric} = {task.m_init:.5g}, to {task.direction} ({sandbox} sandbox)")
        if isinstance(environment.runner, ScriptRunner):
            view.say(f"read from the line: {environment.runner.found.line}", "dim")
        view.say(f"the agent is {model}" + ("" if settings.model.endpoint else "; its engine starts"))
        if settings.model.endpoint:
            agent = EndpointAgent(settings, environment)
        else:
            agent = PolicyAgent(settings, steps, folder, environment, out / ENGINE_LOG)
        await agent.start()
        propose, tell = agent.propose, view.tell
        if verbose:
            propose, tell = _in_full(agent, view, None if job.script else Terms.of(_reward(model)), task)
        await solve(environment, task.id, propose, steps, settings.seed, view.ask, tell, settings.prompt.history)
        view.end()
    except BaseException:  # an interrupt, or an agent or a sandbox that failed: what was found is there
        if view:
            view.end(interrupted=True)
        raise
    finally:
        if agent:
            agent.close()
        environment.close()


def _environment(job: Job, settings: Settings) -> Environment:
    """Raises SandboxFailure."""
    capacity = dataclasses.replace(node_capacity(), gpus=tuple(settings.gpus))
    if not job.script:
        snapshots = SnapshotStore("memory://solve")
        pool = SandboxPool(settings.sandbox, requirements=settings.requirements)
        runner = SandboxRunner(pool, capacity, settings.seed, snapshots)
        return Environment({job.task.id: job.task}, runner, snapshots, observation=settings.prompt.observation)
    sandboxes = SandboxPool(
        settings.sandbox, packages=settings.packages, requirements=settings.requirements, bundled_data=True
    )
    runner = ScriptRunner(sandboxes, capacity, settings.seed).of(job.script)
    return ScriptEnvironment(job.script, runner, settings.prompt.observation)


async def _start(job: Job, environment: Environment) -> dict[str, float | None]:
    """The scores of the unchanged script. Raises Unfit where it has none."""
    baseline = await beside(environment.baseline, job.task.id)
    if baseline.score_after is None:
        advice = user_script.advice(baseline.log_tail) if job.script else ""
        if isinstance(environment.runner, ScriptRunner) and (unclear := environment.runner.unclear):
            raise Unfit(f"{job.path} runs, but has no clear score: {unclear}")
        raise Unfit(f"{job.path} itself ended as {baseline.outcome}, mend it first:\n{baseline.log_tail}{advice}")
    return {
        "m_init": baseline.score_after, "m_init_test": baseline.withheld and baseline.withheld.on_test,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
