"""Everything that works for one training run, started and ended in one place.

Invariant: what was started is ended in reverse order, whatever happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from omegaconf import OmegaConf

from actors.policy.model import resolve
from actors.pool import ActorPool
from envs.records import Task
from learner.config.schema import Config
from learner.evaluation.evaluation import Evaluation
from learner.evaluation.held_out import HeldOut
from learner.ranks.group import reserve
from learner.ranks.handle import Learner
from learner.ranks.publisher import Publisher
from learner.ranks.turns import Turns
from learner.run import ending, preflight, task_figures, trackers
from learner.run.beforehand import load_tasks
from learner.run.checkpointing import Checkpointing
from learner.run.folder import Run
from learner.run.journal import Journal
from learner.run.preparation import connect, measure, places
from learner.run.progress import Progress
from learner.run.watch import Watch


@dataclass(frozen=True)
class Parts:
    """What a run is made of; none of it changes while it lasts."""

    cfg: Config
    model_dir: Path
    tasks: dict[str, Task]
    """By id, with m_init as the sandbox in use gives it."""
    run: Run
    progress: Progress
    journal: Journal
    watch: Watch
    evaluation: Evaluation
    held_out: HeldOut
    actors: ActorPool
    learner: Learner
    turns: Turns
    publisher: Publisher
    checkpointing: Checkpointing

    @property
    def held_in(self) -> dict[str, Task]:
        """The tasks that are trained on."""
        return {task_id: task for task_id, task in self.tasks.items() if task.split == "held_in"}


@contextlib.contextmanager
def started(cfg: Config) -> Iterator[Parts]:
    """All parts, running and measured, but for engines, which may still start (`ActorPool.started` waits for them);
    ended with the context. Raises one of `envs.errors.FAILURES`."""
    with contextlib.ExitStack() as stack:
        tasks, model_dir = load_tasks(cfg), resolve(cfg.model.path)
        run = stack.enter_context(Run(cfg))
        progress = stack.enter_context(Progress(run.dir, logs=run.logs))
        stack.enter_context(ending.told(run))
        for change in run.changes:
            progress.say(change)
        connect(cfg)
        stack.callback(ray.shutdown)
        stack.enter_context(ending.kept_logs(run.logs))
        if cfg.run.mode == "ray":
            cfg = preflight.require(cfg, model_dir, progress.say)

        def full_weights() -> list[Any]:
            return publisher.full_weights()  # asked for once a version was published

        folders = str(model_dir), str(run.dir)
        resting = cfg.actors.colocate
        ranks = reserve(cfg)  # before actors take a part of the node that has room for all
        stack.callback(ranks.close)
        near = ranks if cfg.learner.transfer == "nccl" else None
        actors = ActorPool(
            cfg, list(tasks.values()), *folders, 0, progress.say, full_weights, resting=resting, near=near
        )
        stack.callback(actors.close)
        progress.stage("learner", 1)  # actors start meanwhile, their engines as long as nobody asks for a response
        learner = Learner(cfg, model_dir, progress.say, ranks)
        stack.callback(learner.close)
        turns = Turns(learner, actors)
        publisher = Publisher(learner, actors, turns, progress.say)
        turns.actors()
        progress.advance()
        progress.stage("sandboxes", 1)
        about = actors.exploring()
        for line in places(about):
            progress.say(line)
        progress.advance()
        progress.stage("baselines", 1)
        tasks = measure(tasks, actors)
        task_figures.write(run.dir, tasks.values())
        progress.advance()
        settings = OmegaConf.to_container(cfg, enum_to_str=True)
        journal = stack.enter_context(Journal(run.dir, trackers.start(cfg.run.track, run.dir, settings)))
        journal.describe(about)
        run.ready()
        progress.ready()
        yield Parts(
            cfg=cfg,
            model_dir=model_dir,
            tasks=tasks,
            run=run,
            progress=progress,
            journal=journal,
            watch=Watch(cfg.run.name),
            evaluation=Evaluation(run.dir, tasks),
            held_out=HeldOut(cfg, tasks, actors, run.dir, progress.say),
            actors=actors,
            learner=learner,
            turns=turns,
            publisher=publisher,
            checkpointing=Checkpointing(run, learner, progress.say),
        )
