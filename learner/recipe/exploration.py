"""The expert stage: a pool of ideas for each held-in task, and trajectories that try them, over all actors.

Invariants: every trajectory is run for real and kept, failed ones too; one that ended before an interruption is not
made again.
"""

from __future__ import annotations

import collections
import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import ray
from omegaconf import OmegaConf
from rich import box
from rich.table import Table

from actors.actor import Actor
from actors.expert.operators import Idea
from actors.expert.trajectory import Ending, Trajectory
from actors.explorer import Explorer
from actors.policy.model import resolve
from actors.pool import ActorPool
from envs.errors import UserError
from envs.records import Outcome, Task
from envs.workspace import SnapshotStore
from learner.config.schema import Config
from learner.figures.fitting import Fitting
from learner.figures.text import number
from learner.recipe import trajectories
from learner.run.beforehand import load_tasks
from learner.run.folder import Run
from learner.run.preparation import connect, measure, places
from learner.run.progress import Progress

IDEAS = "ideas.json"
AT_ONCE = 16
"""Trajectories on one actor; their experiments start as they fit."""


class ExplorationError(UserError):
    """There are no trajectories; the message says why."""


@dataclass(frozen=True)
class IdeaPool:
    """The ideas of one task."""

    candidates: int
    """Of so many they were chosen."""
    ideas: tuple[Idea, ...]


def run(cfg: Config) -> list[Trajectory]:
    """The stage on its own, in a run's folder: what `learner/experts.py` does.

    Raises:
        One of `envs.errors.FAILURES`.
    """
    with contextlib.ExitStack() as stack:
        tasks = {name: task for name, task in load_tasks(cfg).items() if task.split == "held_in"}
        serves = cfg.experts.kind == "llm" and not cfg.experts.endpoint
        served = serving(cfg) if serves else cfg
        model_dir = resolve(served.model.path)
        own = stack.enter_context(Run(cfg))
        progress = stack.enter_context(Progress(own.dir, logs=own.logs))
        for change in own.changes:
            progress.say(change)
        progress.stage("start", 2)
        connect(cfg)
        stack.callback(ray.shutdown)
        kind = Actor if serves else Explorer
        actors = ActorPool(served, list(tasks.values()), str(model_dir), str(own.dir), 0, progress.say, list, kind)
        stack.callback(actors.close)
        for line in places(actors.started()):
            progress.say(line)
        progress.advance()
        tasks = measure(tasks, actors)
        progress.advance()
        own.ready()
        progress.ready()
        return explore(cfg, tasks, contextlib.nullcontext(actors), own.dir, progress)


def explore(
    cfg: Config,
    tasks: Mapping[str, Task],
    experts: contextlib.AbstractContextManager[ActorPool],
    folder: Path,
    progress: Progress,
) -> list[Trajectory]:
    """The trajectories of a run: those it has, those of `experts.path`, or new ones.

    tasks: the held-in ones, with m_init; experts: the actors on which the expert explores, if it has to.

    Raises:
        ExplorationError: there is not one with an action.
        TrajectoryError: `experts.path` has none that can be read.
    """
    if (folder / trajectories.PARQUET).exists():
        return trajectories.read(folder)
    if cfg.experts.path:
        explored = _taken_over(Path(cfg.experts.path), tasks, cfg.sandbox.snapshots or folder / "snapshots")
        progress.say(f"{len(explored)} trajectories are taken over from {cfg.experts.path}")
    else:
        with experts as actors:
            pools = _idea_pools(cfg, tasks, actors, folder, progress)
            explored = _explored(cfg, tasks, actors, pools, folder, progress)
    if not any(trajectory.moves for trajectory in explored):
        failure = explored[-1].failure if explored else "they are of other tasks"
        raise ExplorationError(f"no trajectory has an action: {failure}")
    trajectories.save(explored, folder)
    progress.show(summary(explored, tasks))
    return explored


def serving(cfg: Config) -> Config:
    """The configuration of actors that serve the expert's model in the place of the policy's."""
    served = copy.deepcopy(cfg)
    OmegaConf.set_readonly(served, False)
    served.run.name = f"{cfg.run.name}-expert"
    served.model.path, served.model.context, served.model.response = cfg.experts.model, cfg.experts.context, 1
    served.model.thinking, served.model.template_arguments = [], cfg.experts.template_arguments
    OmegaConf.set_readonly(served, True)
    return served


@contextlib.contextmanager
def expert_actors(
    cfg: Config, tasks: Mapping[str, Task], own: ActorPool, folder: Path, say: Callable[[str], None]
) -> Iterator[ActorPool]:
    """Actors that can be the expert: those of the run's own, unless the expert's model has to be served."""
    if cfg.experts.kind == "builtin" or cfg.experts.endpoint:
        yield own
        return
    served = serving(cfg)
    say(f"actors that serve {cfg.experts.model} start")
    pool = ActorPool(served, list(tasks.values()), str(resolve(served.model.path)), str(folder), 0, say, list)
    try:
        pool.started()
        pool.set_baselines({task.id: task.m_init for task in tasks.values()})
        yield pool
    finally:
        pool.close()


def _idea_pools(
    cfg: Config, tasks: Mapping[str, Task], actors: ActorPool, folder: Path, progress: Progress
) -> dict[str, IdeaPool]:
    """Kept in the run's folder as they come, so that a resumed run draws from the same ones."""
    file = folder / IDEAS
    pools = msgspec.json.decode(file.read_bytes(), type=dict[str, IdeaPool]) if file.exists() else {}
    names = [name for name in tasks if name not in pools]
    if not names:
        return pools
    progress.stage("ideas", len(tasks), done=len(tasks) - len(names))
    for index, (candidates, ideas) in actors.spread("ideas", [(name, cfg.run.seed) for name in names], each=2):
        pools[names[index]] = IdeaPool(candidates, tuple(ideas))
        partial = file.with_suffix(".partial")
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(pools)))
        partial.replace(file)
        progress.advance()
    counts = ", ".join(f"{name} {len(pools[name].ideas)} of {pools[name].candidates}" for name in tasks)
    progress.say(f"idea pools: {counts}")
    return pools


def _explored(
    cfg: Config,
    tasks: Mapping[str, Task],
    actors: ActorPool,
    pools: Mapping[str, IdeaPool],
    folder: Path,
    progress: Progress,
) -> list[Trajectory]:
    done = {(trajectory.task_id, trajectory.number): trajectory for trajectory in trajectories.grown(folder)}
    wanted = [(name, number) for number in range(cfg.experts.trajectories) for name in tasks]
    calls = [(name, number, pools[name].ideas) for name, number in wanted if (name, number) not in done]
    progress.stage("expert", len(wanted), done=len(wanted) - len(calls))
    for index, trajectory in actors.spread("explore", calls, each=AT_ONCE):
        done[calls[index][:2]] = trajectory
        if not trajectory.failure:  # what was cut is made again by a resumed run
            trajectories.append(folder, trajectory)
        progress.advance()
    return [done[place] for place in wanted]


def _taken_over(source: Path, tasks: Mapping[str, Task], snapshots: str | Path) -> list[Trajectory]:
    """The trajectories of another run on these tasks, with the snapshots of their states."""
    taken = [trajectory for trajectory in trajectories.read(source) if trajectory.task_id in tasks]
    kept = OmegaConf.load(source / "config.yaml").sandbox.snapshots or source / "snapshots"
    source_snapshots, own_snapshots = SnapshotStore(kept), SnapshotStore(snapshots)
    for trajectory in taken:
        for move in trajectory.moves:
            state = move.result.state
            for snapshot in (move.state.snapshot, state.snapshot, *(before for before, _ in state.undo)):
                own_snapshots.take(source_snapshots, snapshot)
    return taken


def summary(explored: list[Trajectory], tasks: Mapping[str, Task]) -> Fitting:
    """What the expert came to on each task, in less detail where there is no room."""
    return Fitting(_summary(explored, tasks, endings=True), _summary(explored, tasks, endings=False))


def _summary(explored: list[Trajectory], tasks: Mapping[str, Task], endings: bool) -> Table:
    view = Table(
        title=f"expert: trajectories{' by how they ended' if endings else ''}, actions by outcome",
        title_justify="left",
        header_style="bold",
        box=box.ROUNDED,
    )
    shown = tuple(Ending) if endings else ()
    for name in ("task", "trajectories", *shown, "actions", "valid", "start", "best reached", "best known"):
        view.add_column(str(name), justify="left" if name == "task" else "right", no_wrap=endings)
    for task in tasks.values():
        of_task = [trajectory for trajectory in explored if trajectory.task_id == task.id]
        ended = collections.Counter(trajectory.ending for trajectory in of_task)
        results = [move.result for trajectory in of_task for move in trajectory.moves]
        valid = [result for result in results if result.outcome in (Outcome.EDITED, Outcome.NEUTRAL)]
        scores = [result.score_after for result in results if result.score_after is not None]
        best = max(scores, key=lambda score: task.direction.sign * score, default=None)
        figures: list[Any] = [len(of_task), *(ended[ending] for ending in shown), len(results)]
        share = f"{len(valid) / len(results):.0%}" if results else "–"
        view.add_row(task.id, *map(str, figures), share, number(task.m_init), number(best), number(task.m_best))
    return view
