"""One training run with everything that works for it: tasks, actors, learner, stream, journal and progress view.

`learner/main.py` is the algorithm; this module is its verbs. Invariants: all parts are started here and ended here,
in reverse order, whatever happens; weight version = learner steps + 1 (version 0 is the model as given, 1 the
fine-tuned one); results are written as soon as they exist, so a failure loses nothing finished.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
from omegaconf import OmegaConf
from ray.exceptions import GetTimeoutError, RayActorError

from actors.policy.model import resolve
from actors.pool import ActorError, ActorPool
from actors.runtime.remote import place
from envs.records import Outcome, Transition
from envs.sandbox import SandboxFailure
from envs.workspace import SnapshotStore
from learner.algorithm.batching import Example
from learner.algorithm.step_report import StepReport
from learner.config.schema import Config
from learner.evaluation import evaluation
from learner.ranks import logprob_gap
from learner.ranks.handle import Learner
from learner.recipe import exploration, finetuning, selection, warmstart
from learner.reporting.report import write_report
from learner.run import preflight, trackers, transitions
from learner.run.folder import NoRoom, Run
from learner.run.journal import Journal, step_metrics
from learner.run.preparation import connect, load_tasks, measure
from learner.run.progress import Progress
from learner.run.watch import Watch
from learner.stream.scaling import Scaler
from learner.stream.states import StatePool, what_was_seen
from learner.stream.stream import Cursor, Stream, StreamError, unpack

BUCKET_BYTES = 64 << 20
UNUSED_SECONDS = 6 * 3600.0
"""Age at which a snapshot that no state of the pool needs is deleted: longer than any step that may still use it."""


class Training:
    """Context manager: enters with every part running and measured, leaves with every part ended."""

    def __init__(self, cfg: Config):
        self.cfg = cfg
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Training:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def _start(self) -> None:
        cfg, enter = self.cfg, self._stack.enter_context
        self.tasks = load_tasks(cfg)
        self.model_dir = resolve(cfg.model.path)
        self.run = enter(Run(cfg))
        self.progress = enter(Progress(self.run.dir))
        self.progress.stage("start", 2)
        self._place = place(cfg.run.mode)
        connect(cfg)
        self._stack.callback(ray.shutdown)
        if cfg.run.mode == "ray":
            preflight.require(cfg, self.model_dir)
        checkpoints = self.run.checkpoints if cfg.run.resume else []
        self.resumed = bool(checkpoints)
        self.version, self.cursor = 0, Cursor()
        self._overdue, self._rewards = False, []  # of the next checkpoint: whether it failed, what its steps earned
        folders = str(self.model_dir), str(self.run.dir)
        self.actors = ActorPool(
            cfg, list(self.tasks.values()), *folders, self.version, self.progress.say, self._full_weights
        )
        self._stack.callback(self.actors.close)
        self.learner = Learner(cfg, self.model_dir, self.progress.say)
        self._stack.callback(self.learner.close)
        actors = self.actors.started()
        for name, about in actors.items():
            self.progress.say(f"{name}: experiments run in the {about['sandbox']} sandbox on {about['host']}")
        self.progress.advance()
        self.tasks = measure(self.tasks, self.actors)
        self.progress.advance()
        told = OmegaConf.to_container(cfg, enum_to_str=True)
        self.journal = enter(Journal(self.run.dir, trackers.start(cfg.run.track, self.run.dir, told)))
        self.watch = Watch(cfg.run.name)
        self.journal.describe(actors)
        self.evaluation = evaluation.Evaluation(self.run.dir, self.tasks)
        if self.resumed:
            self.cursor = self.run.restore(checkpoints[-1], self.learner)
            self.version = self.cursor.step  # publishing makes it one more, as it was after that step
            self.journal.truncate_after(self.cursor.step)
            transitions.truncate_after(self.run.dir, self.cursor.step)
            self.publish()
            self.progress.say(f"resumed from {checkpoints[-1]}")

    def evaluate(self, stage: str) -> None:
        """Sample every task from its initial state, with the same seeds at every stage; print and write the table."""
        if self.cfg.sandbox.backend == "simulated":
            self.progress.say(f"no evaluation of {stage}: experiments are simulated")
            return
        attempts, seed = self.cfg.evaluation.attempts, self.cfg.evaluation.seed
        self.progress.stage(f"evaluate {stage}", len(self.tasks))
        found: list[Transition] = []
        for _, result in self.actors.spread("evaluate", [(name, attempts, seed) for name in self.tasks], each=2):
            found += result
            self.progress.advance()
        self.evaluation.add(stage, found)
        self.progress.show(self.evaluation.table())

    def explore(self) -> list[Example]:
        """Let the expert try ideas on the held-in tasks; keep the states; return the actions worth imitating."""
        held_in = {task_id: self.tasks[task_id] for task_id in self._held_in()}
        experts = exploration.able(self.cfg, held_in, self.actors, self.run.dir, self.progress.say)
        found = exploration.explore(self.cfg, held_in, experts, self.run.dir, self.progress)
        states = warmstart.states(found, held_in)
        too_long = {s.id for s, fits in zip(states, self.actors.first("fits", states), strict=True) if not fits}
        if too_long:
            self.progress.say(f"{len(too_long)} of {len(states)} states are left out: too long for model.context")
        usable = [state for state in states if state.id not in too_long]
        if self.cfg.rl.episode_steps > 1:  # whole episodes begin where their task does
            usable = [state for state in usable if state.kind == "initial"]
        pool = StatePool(warmstart.balanced(usable, self.cfg.experts.states, self.cfg.run.seed), self.cfg.run.seed)
        pool.save(self._pool_file)
        self.progress.say(f"state pool: {pool.kinds()}")
        worth = [one for one in selection.worth_imitating(found, held_in) if one.state.id not in too_long]
        chosen = selection.select(worth, self.cfg.sft.best, self.cfg.sft.examples, self.cfg.run.seed)
        encoded = [Example(*ids) for ids in self.actors.first("encode", [(one.state, one.text) for one in chosen])]
        examples = [example for example in encoded if len(example.response_ids) <= self.cfg.model.response]
        self.progress.say(f"{len(examples)} expert actions are imitated, of {len(worth)} that are worth it")
        return examples

    def finetune(self, examples: list[Example]) -> None:
        finetuning.finetune(self.cfg, self.run.dir, self.learner, examples, self.progress)

    def publish(self) -> None:
        """Give the learner's weights to every actor; returns when all serve them."""
        self.version += 1
        started = time.monotonic()
        if self.cfg.learner.transfer == "nccl":
            self._published = self.learner.broadcast(self.version, self.actors.receivers)
        else:
            self._published = self.learner.publish(BUCKET_BYTES, self.version)
        self.actors.publish(self.version, self._published.buckets)
        self._publish_seconds = time.monotonic() - started

    def _full_weights(self) -> list[Any]:
        """For an actor that joins between two publishes."""
        return self.learner.publish(BUCKET_BYTES, self.version, full=True).buckets

    def batches(self) -> Iterator[list[list[Transition]]]:
        """Start the actors' loops and yield the groups of each learner step; ends the loops after the last."""
        rl, run = self.cfg.rl, self.cfg.run
        pool = self._pool()
        if rl.kl:
            self._hold_reference()
        self.progress.stage("reinforce", rl.steps, done=self.cursor.step)
        options = {"name": f"{run.name}/stream", "num_cpus": 0, "max_concurrency": 1000, **self._place.here()}
        batch = rl.steps, rl.states, rl.actions, rl.max_staleness
        self._stream = self._place.spawn(Stream, options, pool, run.seed, *batch, self.cursor)
        self._scaler = Scaler(self.cfg, self.actors, self.progress.say)
        self.actors.collect(self._stream)
        for _ in range(self.cursor.step, rl.steps):
            self._step_started, asked = time.monotonic(), time.time()
            groups = unpack(self._batch())
            self._wait_seconds = time.monotonic() - self._step_started
            self._waited = asked, asked + self._wait_seconds
            yield groups
        self._ask("close")
        self._scaler.close()
        self.actors.finish()

    def _hold_reference(self) -> None:
        """The policy as it was before the first RL step; a resumed run finds it in the run's folder."""
        folder = self.run.dir / "reference"
        if not folder.exists():
            partial = folder.with_name(".partial-reference")
            self.learner.export(partial)
            partial.rename(folder)
        self.learner.hold_reference(folder)

    def record(self, groups: list[list[Transition]], report: StepReport) -> None:
        """Keep what one learner step trained on and what came of it, and let the stream go on.

        Raises:
            SandboxFailure: not one experiment of the step ran.
        """
        members = [transition for group in groups for transition in group]
        if all(t.outcome is Outcome.INFRA_FAILURE for t in members):
            raise SandboxFailure(f"every experiment of a learner step failed; the last: {members[-1].info.log_tail}")
        spreads, found = what_was_seen(groups)
        step = self.cursor.step + 1
        saved = self._overdue or step % self.cfg.checkpoint.every == 0 or step == self.cfg.rl.steps
        self.cursor = self._ask("advance", spreads, found, saved)
        logprob_gap.check(step, report, self.cfg.rl, self.model_dir, self.progress.say)
        transitions.write(self.run.dir, step, groups, report)
        seconds = time.monotonic() - self._step_started
        row = step_metrics(groups, self.version - 1, report, seconds, self._waited, time.time())
        account = self._ask("account")
        row |= {"step": step, "publish_seconds": self._publish_seconds}
        row |= {"publish_mb": self._published.sent_bytes / 1e6}
        row |= {"publish_share": self._published.sent_bytes / self._published.full_bytes}
        row |= {f"stream_{name}": value for name, value in dataclasses.asdict(account).items()}
        self._scaler.step(self._wait_seconds, seconds, account)
        self.journal.append(row)
        self.watch.step(row)
        self.progress.advance(**row)
        self._rewards.append(row["reward_mean"])
        if saved:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Keep what a restart needs. Where the disk is full, the run goes on and tries again after each step.

        Raises:
            NoRoom: the disk is full after the last step.
        """
        counted = [reward for reward in self._rewards if reward is not None]
        try:
            folder = self.run.save(self.cursor, self.learner, float(np.mean(counted)) if counted else None)
        except NoRoom as error:
            if self.cursor.step == self.cfg.rl.steps:
                raise
            self._overdue = True
            self.progress.say(f"no checkpoint of step {self.cursor.step}: {error}; trying again after the next step")
            return
        self._overdue, self._rewards = False, []
        finetuning.forget(self.run.dir)
        self.progress.say(f"checkpoint {folder}")
        snapshots = SnapshotStore(self.cfg.sandbox.snapshots or self.run.dir / "snapshots")
        snapshots.collect(self._pool().states, UNUSED_SECONDS)

    def report(self) -> None:
        self.progress.say(f"report {write_report(self.run.dir)}")

    def _batch(self) -> list[bytes]:
        """The stream's next batch; the actors are looked after while it fills.

        Raises:
            ActorError: too many actors failed, or none does anything.
            StreamError: a group cannot be finished, or the stream has ended.
        """
        batch = self._stream.batch.remote()
        self._look_after_actors()
        while not self._place.wait([batch], timeout=1.0)[0]:
            self._look_after_actors()
            self.watch.stream(dataclasses.asdict(self._ask("account")))
            if self.actors.idle_seconds > self.cfg.actors.deadline:
                raise ActorError(
                    f"no batch is complete, and no actor has done anything for {self.cfg.actors.deadline:.0f} s "
                    "(actors.deadline)"
                )
        return self._of_stream(batch)

    def _look_after_actors(self) -> None:
        self.actors.check()
        self._scaler.look()
        activity = self.actors.activity()
        self.progress.update(**activity)
        self.watch.actors(activity)

    def _ask(self, method: str, *args: Any) -> Any:
        """The stream's answer. Raises StreamError."""
        return self._of_stream(getattr(self._stream, method).remote(*args))

    def _of_stream(self, asked: Any) -> Any:
        seconds = self.cfg.actors.deadline
        try:
            return self._place.get(asked, timeout=seconds)
        except GetTimeoutError as error:
            raise StreamError(f"the stream did not answer in {seconds:.0f} s (actors.deadline)") from error
        except RayActorError as error:
            raise StreamError(
                f"the stream has ended ({str(error).splitlines()[0]}): run.resume=true goes on from the last checkpoint"
            ) from error

    def _held_in(self) -> list[str]:
        return [task_id for task_id, task in self.tasks.items() if task.split == "held_in"]

    def _pool(self) -> StatePool:
        rl, seed = self.cfg.rl, self.cfg.run.seed
        short = round(rl.curriculum * rl.steps) * rl.states
        return StatePool.load(self._pool_file, seed, self._held_in(), rl.sampling, self.cursor.experience, short)

    @property
    def _pool_file(self) -> Any:
        return self.run.dir / "states.json"
