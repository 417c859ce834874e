"""`python -m envs`: list, write, check, vary and export tasks, run a best solution, show a prompt, try an action.

Each of `check`, `best`, `vary`, `step` and `export` prints one JSON object on stdout; what it used and what went wrong
go to stderr. The exit status is 0 only if the task has no problem (`check`), its best score comes out as stated
(`best`), as many variants were kept as were asked for (`vary`), or the action was carried out, whatever came of it
(`step`).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import math
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from envs import harbor_export
from envs import vary as variations
from envs.admission import Capacity, node_capacity
from envs.benchmarks.loader import about, builtin_tasks, limited, load
from envs.check import problems
from envs.environment import Environment, readable
from envs.errors import UserError
from envs.experiments import SandboxRunner
from envs.parts import sizes
from envs.prompt import Extent
from envs.records import Direction, Outcome, StepResult, Task
from envs.sandbox import SandboxPool
from envs.workspace import SnapshotStore
from reward import Terms, reward

log = logging.getLogger(__name__)

TEMPLATE = Path(__file__).parent / "template"
ATTEMPTS = 4
"""Variants that are tried for each that is asked for."""
SAME_SCORE = 1e-4
"""Relative difference up to which a score is the stated one: machines round differently."""
OF_EXPERIMENTS = r"tasks\.limits\.\w+|sandbox\.(requirements|packages|image|gpus)"
"""Keys that `check` and `best` take."""


class CommandError(UserError):
    """A command that cannot be completed; the message says why."""


def main(arguments: Sequence[str]) -> int:
    """Exit status."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    keys = options.keys
    if unknown := [one for one in rest if keys is None or not re.fullmatch(rf"({keys})=.*", one, re.DOTALL)]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    options.settings = rest
    try:
        options.command(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def list_tasks(arguments: argparse.Namespace) -> None:
    """Print a table of the built-in tasks."""
    table = Table("task", "split", "metric", "best", expand=True)
    table.add_column("origin of the data", ratio=1, no_wrap=True)
    for name in builtin_tasks():
        stated = about(name)
        arrow = "↑" if stated.direction is Direction.MAXIMIZE else "↓"
        table.add_row(
            name,
            stated.split,
            f"{stated.metric} {arrow}",
            f"{stated.best:.4g}" if stated.best is not None else "–",
            stated.origin,
        )
    Console().print(table)


def new(arguments: argparse.Namespace) -> None:
    """Write a task to start from into a new folder."""
    if arguments.folder.exists():
        raise CommandError(f"{arguments.folder} exists: give the name of a new folder")
    try:
        shutil.copytree(TEMPLATE, arguments.folder)
    except OSError as error:
        raise CommandError(f"{arguments.folder} cannot be written: {error}") from error
    print(f"wrote {arguments.folder}: read its task.yaml, then python -m envs check {arguments.folder}")


def check(arguments: argparse.Namespace) -> None:
    """Run the unchanged script, print its score, and say what its author should mend."""
    task = _task(arguments)
    with _sandboxes(arguments) as sandboxes:
        # Two seeds: a script that draws its own random numbers shows it.
        first, again = (_environment(arguments, task, sandboxes, seed).baseline(task.id) for seed in (0, 1))
        _require_sandbox(first)
        report = {
            "task": task.id,
            "metric": task.metric,
            "direction": task.direction,
            "score": first.score_after,
            "test_score": first.withheld and first.withheld.on_test,
            "answers": dict(sizes(task.parts)) if task.parts else task.undivided,
            "outcome": first.outcome,
            "seconds": round(first.durations.execute, 4),
            "problems": problems(task, first, again, sandboxes),
        }
    print(json.dumps(report))
    if report["problems"]:
        log_tail = f"\n{first.log_tail}" if first.score_after is None else ""
        raise CommandError(f"task {task.id}: " + "\n- ".join(["", *report["problems"]]).strip() + log_tail)


def best(arguments: argparse.Namespace) -> None:
    """Run the task's scripts/best.py in the place of its script and compare its score with what task.yaml states."""
    task = _task(arguments)
    solution = (task.private_dir / "best").with_suffix(Path(task.script).suffix)
    if not solution.is_file():
        raise CommandError(f"task {task.id} has no scripts/{solution.name}: a strong solution, run as {task.script} is")
    with _sandboxes(arguments) as sandboxes:
        run = SandboxRunner(sandboxes, _capacity(arguments)).run(task, {task.script: solution.read_text()})
    agrees = None not in (run.score, task.m_best) and math.isclose(run.score, task.m_best, rel_tol=SAME_SCORE)
    report = {
        "task": task.id,
        "metric": task.metric,
        "stated": task.m_best,
        "score": run.score,
        "test_score": run.withheld and run.withheld.on_test,
        "outcome": run.outcome,
        "seconds": round(run.durations.execute, 4),
        "agrees": agrees,
    }
    print(json.dumps(report))
    if not agrees:
        reason = readable(run.log) if run.score is None else f"task.yaml states best: {task.m_best}"
        raise CommandError(f"task {task.id}: scripts/{solution.name} scored {run.score}: {reason}")


def vary(arguments: argparse.Namespace) -> None:
    """Derive verified variants of a task: other rows, columns, targets, metrics, starts, or corrupted cells."""
    task, folder = load(arguments.task), arguments.out or Path(f"{Path(arguments.task).name}-variants")
    if arguments.n < 1:
        raise CommandError(f"--n must be at least 1, not {arguments.n}")
    if folder.exists():
        raise CommandError(f"{folder} exists: give the name of a new folder (--out)")
    kept, rejected = [], {}
    with _sandboxes(arguments) as sandboxes:
        for number, variant in itertools.islice(variations.variants(task, arguments.seed), ATTEMPTS * arguments.n):
            name = f"{task.id}-{arguments.seed}-{number:03}"
            variations.write(folder / name, task, variant, arguments.seed, number)
            scores, wrong = variations.tried(folder / name, variant, sandboxes, node_capacity())
            if wrong:
                rejected[name] = wrong
                shutil.rmtree(folder / name)
            else:
                kept.append({"task": str(folder / name), **asdict(variant), **scores})
            log.info(
                "%s: %s", name, "; ".join(wrong) or f"{variant.metric} {scores['score']:.4g} → {scores['best']:.4g}"
            )
            if len(kept) == arguments.n:
                break
    print(json.dumps({"task": task.id, "split": task.split, "variants": kept, "rejected": rejected}))
    if len(kept) < arguments.n:
        raise CommandError(
            f"task {task.id}: only {len(kept)} of {len(kept) + len(rejected)} variants were worth keeping"
        )
    log.info("tasks.%s=[%s]", task.split, ",".join(one["task"] for one in kept))


def step(arguments: argparse.Namespace) -> None:
    """Measure the unchanged script, apply the action to it, and print what came of it."""
    try:
        text = sys.stdin.read() if arguments.action == "-" else Path(arguments.action).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{arguments.action} cannot be read: {error}") from error
    terms = Terms.of(_settings(arguments.settings).reward)
    task = _task(arguments)
    with _sandboxes(arguments) as sandboxes:
        environment = _environment(arguments, task, sandboxes)
        task = _measured(environment, task)
        result = environment.step(environment.initial_state(task.id), text)
    _require_sandbox(result)
    worth = reward(result, task, terms)
    report = {
        "outcome": result.outcome,
        "score_before": result.score_before,
        "score_after": result.score_after,
        "reward": worth.value,
        "reward_parts": worth.parts,
        "durations": asdict(result.durations),
        "log_tail": result.log_tail,
    }
    print(json.dumps(report))


def export(arguments: argparse.Namespace) -> None:
    """Write the task into a new folder in Harbor's format, with tests that grade and reward as this project does."""
    if arguments.folder.exists():
        raise CommandError(f"{arguments.folder} exists: give the name of a new folder")
    terms = Terms.of(_settings(arguments.settings).reward)
    task = _task(arguments)
    with _sandboxes(arguments) as sandboxes:
        task = _measured(_environment(arguments, task, sandboxes), task)
    harbor_export.write(arguments.folder, task, asdict(terms))
    print(json.dumps({"task": task.id, "folder": str(arguments.folder), "start": task.m_init}))


def prompt(arguments: argparse.Namespace) -> None:
    """Print the prompt that a model gets of the unchanged script, token by token as it is, and how many they are."""
    from actors.policy import shown
    from actors.policy.model import resolve

    cfg = _settings(arguments.settings)
    model, extent = cfg.model, Extent.of(cfg.prompt)
    task = limited(load(arguments.task), cfg.tasks.limits)
    with _sandboxes(arguments) as sandboxes:
        environment = _environment(arguments, task, sandboxes)
        task = _measured(environment, task)
        state = environment.initial_state(task.id)
        files = environment.files(state)
    text, tokens = shown.prompt(resolve(model.path), model.context, model.response, task, state, files, extent)
    print(text)
    log.info("%d tokens of the %d that model.context leaves to a prompt", tokens, model.context - model.response)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m envs", description=__doc__.splitlines()[0])
    parser.set_defaults(keys=None)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("list", help=list_tasks.__doc__).set_defaults(command=list_tasks)
    one = argparse.ArgumentParser(add_help=False)
    one.add_argument("task", metavar="TASK", help="name of a built-in task, or a task folder")
    one.add_argument(
        "--sandbox", choices=["auto", "docker", "gvisor", "process"], default="auto",
        help="where the script runs; auto: the strongest that works (default: %(default)s)",
    )  # fmt: skip
    limits = (
        "KEY=VALUE: tasks.limits.seconds=3600 and its like, sandbox.requirements, sandbox.packages, sandbox.image, "
        "sandbox.gpus"
    )
    checked = commands.add_parser("check", parents=[one], help=check.__doc__, epilog=limits)
    checked.set_defaults(command=check, keys=OF_EXPERIMENTS)
    tried = commands.add_parser("best", parents=[one], help=best.__doc__, epilog=limits)
    tried.set_defaults(command=best, keys=OF_EXPERIMENTS)
    varied = commands.add_parser("vary", parents=[one], help=vary.__doc__)
    varied.add_argument("--n", type=int, default=10, help="variants to keep (default: %(default)s)")
    varied.add_argument("--seed", type=int, default=0, help="another gives other variants (default: %(default)s)")
    varied.add_argument("--out", metavar="FOLDER", type=Path, help="new folder for them (default: TASK-variants)")
    varied.set_defaults(command=vary)
    fresh = commands.add_parser("new", help=new.__doc__)
    fresh.add_argument("folder", metavar="NAME", type=Path, help="folder to make")
    fresh.set_defaults(command=new)
    settings = "KEY=VALUE: keys of a run, such as reward.version=v2, model.path=… or config=quickstart"
    trial = commands.add_parser("step", parents=[one], help=step.__doc__, epilog=settings)
    trial.add_argument("--action", metavar="FILE", required=True, help="file with the text of an action; -: from stdin")
    trial.set_defaults(command=step, keys=r"[\w.]+")
    exported = commands.add_parser("export", parents=[one], help=export.__doc__, epilog=settings)
    exported.add_argument("folder", metavar="FOLDER", type=Path, help="folder to make; its name is the task's there")
    exported.set_defaults(command=export, keys=r"[\w.]+")
    asked = commands.add_parser("prompt", parents=[one], help=prompt.__doc__, epilog=settings)
    asked.set_defaults(command=prompt, keys=r"[\w.]+")
    return parser


def _settings(arguments: Sequence[str]) -> Any:
    """A run's configuration."""
    from learner.config.load import load as configure

    return configure(arguments)


def _task(arguments: argparse.Namespace) -> Task:
    """The task that is named, with the limits that keys give it."""
    return limited(load(arguments.task), _settings(arguments.settings).tasks.limits)


@contextlib.contextmanager
def _sandboxes(arguments: argparse.Namespace) -> Iterator[SandboxPool]:
    """With the packages that keys give it."""
    of = _settings(arguments.settings).sandbox
    sandboxes = SandboxPool(arguments.sandbox, of.image, packages=of.packages, requirements=of.requirements)
    log.info("sandbox: %s", sandboxes.name)
    try:
        yield sandboxes
    finally:
        sandboxes.close()


def _capacity(arguments: argparse.Namespace) -> Capacity:
    """This node, with the GPUs that keys give experiments."""
    return replace(node_capacity(), gpus=tuple(_settings(arguments.settings).sandbox.gpus))


def _environment(arguments: argparse.Namespace, task: Task, sandboxes: SandboxPool, seed: int = 0) -> Environment:
    """Keeps the workspaces of its states in memory."""
    snapshots = SnapshotStore("memory://snapshots")
    return Environment({task.id: task}, SandboxRunner(sandboxes, _capacity(arguments), seed, snapshots), snapshots)


def _measured(environment: Environment, task: Task) -> Task:
    """The task with the score of its unchanged script, which its environment knows from now on."""
    baseline = environment.baseline(task.id)
    _require_sandbox(baseline)
    _require_score(task, baseline)
    environment.tasks[task.id] = task = replace(task, m_init=baseline.score_after)
    return task


def _require_sandbox(result: StepResult) -> None:
    if result.outcome is Outcome.INFRA_FAILURE:
        raise CommandError(f"the sandbox failed, not the task: {result.log_tail}")


def _require_score(task: Task, baseline: StepResult) -> None:
    if baseline.score_after is None:
        raise CommandError(
            f"the baseline of task {task.id} ({task.script}) got no score, {baseline.outcome}:\n{baseline.log_tail}"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
