"""`python -m envs`: list the tasks, check one, or try one action on one.

Each of `check` and `step` prints one JSON object on stdout; what it used and what went wrong go to stderr. The exit
status is 0 only if the baseline ran and, for `step`, the action was carried out, whatever came of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from envs.admission import node_capacity
from envs.environment import Environment, usage
from envs.experiments import SandboxRunner
from envs.loader import TaskError, about, builtin_tasks, load
from envs.records import Direction, Outcome, StepResult, Task
from envs.sandbox import SandboxFailure, SandboxPool
from envs.workspace import SnapshotStore
from reward import reward

log = logging.getLogger(__name__)


class CommandError(RuntimeError):
    """A command that cannot be completed; the message says why."""


def main() -> None:
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    arguments = _parser().parse_args()
    try:
        arguments.command(arguments)
    except (TaskError, SandboxFailure, CommandError) as error:
        sys.exit(f"error: {error}")


def list_tasks(arguments: argparse.Namespace) -> None:
    """Print a table of the built-in tasks."""
    table = Table("task", "split", "metric", "best", "origin of the data")
    for name in builtin_tasks():
        stated = about(name)
        arrow = "↑" if stated.direction is Direction.MAXIMIZE else "↓"
        table.add_row(name, stated.split, f"{stated.metric} {arrow}", f"{stated.best:.4g}", stated.origin)
    Console().print(table)


def check(arguments: argparse.Namespace) -> None:
    """Run the unchanged script and print its score."""
    task = load(arguments.task)
    with _environment(task, arguments.sandbox) as environment:
        result = environment.baseline(task.id)
    found = {
        "task": task.id,
        "metric": task.metric,
        "direction": task.direction,
        "score": result.score_after,
        "outcome": result.outcome,
        "seconds": round(result.durations.execute, 4),
    }
    print(json.dumps(found))
    _require_score(task, result)


def step(arguments: argparse.Namespace) -> None:
    """Measure the unchanged script, apply the action to it, and print what came of it."""
    try:
        text = arguments.action.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{arguments.action} cannot be read: {error}") from error
    task = load(arguments.task)
    with _environment(task, arguments.sandbox) as environment:
        baseline = environment.baseline(task.id)
        _require_score(task, baseline)
        environment.tasks[task.id] = task = replace(task, m_init=baseline.score_after)
        result = environment.step(environment.initial_state(task.id), text)
    if result.outcome is Outcome.INFRA_FAILURE:
        raise CommandError(f"the sandbox failed, not the action: {result.log_tail}")
    worth = reward(
        result.outcome, result.score_before, result.score_after, task.m_init, task.m_best, task.direction,
        usage=usage(task, result),
    )  # fmt: skip
    found = {
        "outcome": result.outcome,
        "score_before": result.score_before,
        "score_after": result.score_after,
        "reward": worth.value,
        "reward_parts": worth.parts,
        "durations": asdict(result.durations),
        "log_tail": result.log_tail,
    }
    print(json.dumps(found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m envs", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("list", help=list_tasks.__doc__).set_defaults(command=list_tasks)
    one = argparse.ArgumentParser(add_help=False)
    one.add_argument("task", metavar="TASK", help="name of a built-in task, or a task folder")
    one.add_argument(
        "--sandbox", choices=["auto", "docker", "process"], default="auto",
        help="where the script runs; auto: docker where an engine answers, otherwise process (default: %(default)s)",
    )  # fmt: skip
    commands.add_parser("check", parents=[one], help=check.__doc__).set_defaults(command=check)
    trial = commands.add_parser("step", parents=[one], help=step.__doc__)
    trial.add_argument("--action", metavar="FILE", type=Path, required=True, help="file with the text of an action")
    trial.set_defaults(command=step)
    return parser


@contextlib.contextmanager
def _environment(task: Task, backend: str) -> Iterator[Environment]:
    sandboxes = SandboxPool(backend)
    log.info("sandbox: %s", sandboxes.name)
    with tempfile.TemporaryDirectory() as folder:
        runner = SandboxRunner(sandboxes, node_capacity())
        environment = Environment({task.id: task}, runner, SnapshotStore(folder))
        try:
            yield environment
        finally:
            environment.close()


def _require_score(task: Task, baseline: StepResult) -> None:
    if baseline.score_after is None:
        raise CommandError(
            f"the baseline of task {task.id} ({task.script}) got no score, {baseline.outcome}:\n{baseline.log_tail}"
        )


if __name__ == "__main__":
    main()
