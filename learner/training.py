"""The verbs of `learner/main.py`, each in terms of the parts that it needs.

Invariants: all that changes while a run lasts is in `Training.cursor`, `Training.needed` and `Training.session`, and in
the parts that say so; results are written as soon as they exist, so that a failure loses nothing finished.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from envs.records import Outcome, State, Transition
from envs.sandbox import SandboxFailure
from envs.workspace import SnapshotStore
from learner.algorithm.batching import Example
from learner.algorithm.step_report import StepReport
from learner.config.schema import Config
from learner.parts import Parts, started
from learner.ranks import logprob_gap
from learner.recipe import enrichment, finetuning
from learner.reporting import report
from learner.run import journal, transitions, truncation
from learner.run.attempts import Attempts, forget_after
from learner.run.journal import step_metrics
from learner.run.session import Session
from learner.stream.states import StatePool
from learner.stream.stream import Cursor
from reward.published import span

UNUSED_SECONDS = 6 * 3600.0
"""Age at which a snapshot that no state of the pool needs is deleted: longer than any step that may still use it."""


@contextlib.contextmanager
def begun(cfg: Config) -> Iterator[Training]:
    """A run that is ready to train, from its last checkpoint where it is resumed; its report follows it, however it
    ends."""
    run_dir = None
    try:
        with started(cfg) as parts:
            run, run_dir = Training(parts), parts.run.dir
            if cfg.run.resume:
                run.resume()
            yield run
            if freed := parts.run.done():
                parts.progress.say(
                    f"deleted {freed >> 20} MiB that only a restart from an earlier checkpoint would need; the rest: "
                    f"mlagent clean {run_dir}"
                )
    except BaseException:
        if run_dir:
            with contextlib.suppress(Exception):  # why it ended is what matters
                _report(run_dir)
        raise
    _report(run_dir)


def _report(run_dir: Path) -> None:
    """Of a run that has ended, and says how."""
    print(f"report {report.write_report(run_dir)}", flush=True)


class Training:
    """One run as `learner/main.py` tells it what to do."""

    def __init__(self, parts: Parts):
        self.parts = parts
        self.resumed = False
        self.cursor = Cursor()
        """Where a restart goes on; whole after a step with a checkpoint, which only these need."""
        self.needed: list[list[State]] = []
        """The states of the last two whole ones: of the checkpoint that is there, and of one that is being written."""
        self._points: list[dict[str, Any]] = []
        """Of the held-out curve, one for each next row of the journal; between two rows no more than one comes."""
        self.session: Session | None = None
        """With the actors, once RL has begun."""

    def resume(self) -> None:
        """Go back to the last checkpoint, or to before the first learner step, and forget what came after it."""
        run = self.parts.run
        if not run.checkpoints:
            self._forget_after(0, version=0)
            return
        self._until_engines_serve()
        checkpoint = run.checkpoints[-1]
        self.parts.turns.learner()
        self.cursor = run.restore(checkpoint, self.parts.learner)
        self.needed = [self.cursor.states]
        self.parts.publisher.version = self.cursor.step  # publishing makes it one more, as it was after that step
        self._forget_after(self.cursor.step, version=self.cursor.step + 1)
        self.publish()
        self.resumed = True
        self.parts.progress.say(f"resumed from {checkpoint}")

    def _forget_after(self, step: int, version: int) -> None:
        """version: of the weights that this step led to."""
        self.parts.journal.truncate_after(step)
        transitions.truncate_after(self.parts.run.dir, step)
        forget_after(self.parts.run.dir, version)

    def evaluate(self, stage: str) -> None:
        """Sample every task from its initial state, with the same seeds at every stage; print and write the table.

        A resumed run does not evaluate again what came before RL, nor tasks that it had evaluated; but fine-tuned
        weights that it had lost and made anew.
        """
        cfg, progress, tasks = self.parts.cfg, self.parts.progress, self.parts.tasks
        known = stage in self.parts.evaluation.stages and (stage == "base" or self.resumed)
        if stage != "rl" and (self.cursor.step or known):
            return
        if cfg.sandbox.backend == "simulated":
            progress.say(f"no evaluation of {stage}: experiments are simulated")
            return
        count, seed = cfg.evaluation.attempts, cfg.evaluation.seed
        kept = Attempts(cfg, self.parts.run.dir, stage, self.parts.publisher.version)
        done = {name: attempts for name in tasks if (attempts := kept.of(name)) is not None}
        progress.stage(f"evaluate {stage}", len(tasks), done=len(done))
        calls = [(name, count, seed) for name in tasks if name not in done]
        self.parts.turns.actors()
        for index, attempts in self.parts.actors.spread("evaluate", calls, each=2):
            done[calls[index][0]] = attempts
            kept.keep(calls[index][0], attempts)
            tried = itertools.chain.from_iterable(done[name] for name in tasks if name in done)
            transitions.write_attempts(self.parts.run.dir, stage, list(tried))  # to be looked at while others are made
            progress.advance(**self.parts.actors.activity())
        self.parts.evaluation.add(stage, list(itertools.chain.from_iterable(done[name] for name in tasks)))
        progress.show(self.parts.evaluation.table())
        if stage != "base":
            self._judge(self.cursor.step, self.parts.held_out.of_stage(self.parts.evaluation.results, stage))

    def explore(self) -> list[Example]:
        """Let the expert try ideas on the held-in tasks; keep the states; return the actions worth imitating.

        The engines, which start meanwhile, serve when it returns.
        """
        parts = self.parts
        examples = enrichment.enrich(parts.cfg, parts.held_in, parts.actors, parts.run, parts.progress)
        self._until_engines_serve()
        return examples

    def _until_engines_serve(self) -> None:
        progress, began = self.parts.progress, time.monotonic()
        progress.stage("engines", 1)
        about = self.parts.actors.started()
        self.parts.journal.describe(about)
        longest = max((said["engine_seconds"] for said in about.values()), default=0.0)
        waited = time.monotonic() - began
        progress.say(f"engines serve: started in {longest:.0f} s, of which the run waited for {waited:.0f} s")
        progress.advance()

    def finetune(self, examples: list[Example]) -> None:
        parts = self.parts
        parts.turns.learner()
        finetuning.finetune(parts.cfg, parts.run.dir, parts.learner, examples, parts.progress)

    def publish(self) -> None:
        """Give the learner's weights to every actor; returns when all serve them."""
        self.parts.progress.doing("publishes weights")
        self.parts.publisher.publish()

    def batches(self) -> Iterator[list[list[Transition]]]:
        """Start the actors' loops and yield the groups of each learner step; ends the loops after the last."""
        parts, steps = self.parts, self.parts.cfg.rl.steps
        if parts.cfg.rl.kl:
            self._hold_reference()
        if self.resumed:
            self._recall_held_out()
        parts.progress.stage("reinforce", steps, done=self.cursor.step)
        self.session = Session(parts.cfg, self._pool(), self.cursor, parts.actors, parts.progress, parts.watch)
        while self.cursor.step < steps and not parts.held_out.over:
            parts.turns.actors()
            yield self.session.batch(self._meanwhile)
        if early := self.cursor.step < steps:
            self._whole(self.session.cursor())
        self.session.close()
        if early:
            self._end_early()

    def _whole(self, cursor: Cursor) -> None:
        """Go on from one that a checkpoint is to have."""
        self.cursor = cursor
        self.needed = [*self.needed[-1:], cursor.states]

    def learn(self, groups: list[list[Transition]]) -> StepReport:
        """One learner step on groups of transitions."""
        self.parts.progress.doing("trains")
        self.parts.turns.learner()
        return self.parts.learner.train(groups, self.parts.publisher.version)

    def record(self, groups: list[list[Transition]], report: StepReport) -> None:
        """Keep what one learner step trained on and what came of it, and let the stream go on.

        Raises:
            SandboxFailure: not one experiment of the step ran.
            LearnerError: engine and learner disagree on log-probs.
        """
        parts, session, step = self.parts, self.session, self.cursor.step + 1
        members = [transition for group in groups for transition in group]
        if all(t.outcome is Outcome.INFRA_FAILURE for t in members):
            raise SandboxFailure(f"every experiment of a learner step failed; the last: {members[-1].info.log_tail}")
        due = parts.checkpointing.due(step)
        if parts.held_out.due(step):
            self._begin_held_out(step)
        self.cursor = session.advance(groups, due)
        if due:
            self._whole(self.cursor)
        logprob_gap.check(step, report, parts.cfg.rl, parts.model_dir, parts.progress.say)
        transitions.write(parts.run.dir, step, groups, report)
        seconds, account = session.account()
        row = step_metrics(groups, parts.publisher.version - 1, report, seconds, session.waited, time.time())
        row |= {"step": step, **parts.publisher.figures(), **parts.turns.figures()}
        row |= {f"stream_{name}": value for name, value in dataclasses.asdict(account).items()}
        row |= {"repeated_share": account.repeated / len(groups)}
        self._look_at_held_out(wait=step == parts.cfg.rl.steps)
        row |= {"held_out": self._points.pop(0)} if self._points else {}
        parts.journal.append(row)
        parts.watch.step(row)
        parts.progress.advance(**row)
        if said := truncation.warning(step, row["truncated_rate"], parts.cfg):
            parts.progress.say(said)
        parts.checkpointing.earned(row["reward_mean"])
        if due:
            self.checkpoint()

    def checkpoint(self, last: bool = False) -> None:
        """Keep what a restart needs, and no longer what only an earlier one did; beside training, but before the first
        learner step and after the last. Raises NoRoom after the last step."""
        self.parts.turns.learner()
        if self.parts.checkpointing.save(self.cursor, last):
            self._forget()

    def _meanwhile(self) -> None:
        """What goes on beside training."""
        if self.parts.checkpointing.settle():
            self._forget()
        self._look_at_held_out()

    def _begin_held_out(self, step: int) -> None:
        held_out = self.parts.held_out
        self.parts.turns.actors()
        held_out.begin(step, self.parts.publisher.version)
        self._look_at_held_out(wait=held_out.alone)

    def _look_at_held_out(self, wait: bool = False) -> None:
        if point := self.parts.held_out.look(wait):
            self._points.append(point)
            self._judge(point["step"], point["reward"])

    def _judge(self, step: int, reward: float | None) -> None:
        """A checkpoint's reward on held-out tasks, where these are evaluated beside training."""
        if reward is not None and self.parts.cfg.evaluation.every:
            self.parts.held_out.heard(step, reward)
            self.parts.checkpointing.judge(step, reward)

    def _recall_held_out(self) -> None:
        """What a resumed run had heard, and the evaluation after its last step where it had not come to an end."""
        parts, step = self.parts, self.cursor.step
        points = [row["held_out"] for row in journal.read(parts.run.dir) if row.get("held_out")]
        self._judge(0, parts.held_out.of_stage(parts.evaluation.results, "sft"))
        for point in points:
            parts.progress.update(held_out=point)
            self._judge(point["step"], point["reward"])
        if parts.held_out.due(step) and step not in [point["step"] for point in points]:
            self._begin_held_out(step)

    def _end_early(self) -> None:
        parts, step = self.parts, self.cursor.step
        parts.progress.say(
            f"RL ends after step {step}: {parts.cfg.evaluation.patience} evaluations in a row were no better than the "
            "best (evaluation.patience)"
        )
        parts.checkpointing.settle(wait=True)
        if parts.run.checkpoints[-1].name != f"step_{step}":
            self.checkpoint(last=True)

    def _forget(self) -> None:
        """What only an earlier checkpoint needed. (States that joined the pool since the last are young.)"""
        cfg, run = self.parts.cfg, self.parts.run
        finetuning.forget(run.dir)
        snapshots = SnapshotStore(cfg.sandbox.snapshots or run.dir / "snapshots")
        snapshots.collect([*self._pool().states, *itertools.chain(*self.needed)], UNUSED_SECONDS)

    def _hold_reference(self) -> None:
        """The policy as it was before the first RL step; a resumed run finds it in the run's folder."""
        folder = self.parts.run.dir / "reference"
        self.parts.turns.learner()
        if not folder.exists():
            partial = folder.with_name(".partial-reference")
            self.parts.learner.keep_reference(partial)
            partial.rename(folder)
        self.parts.learner.hold_reference(folder)

    def _pool(self) -> StatePool:
        """The state pool, with what was learned of it so far."""
        rl, seed = self.parts.cfg.rl, self.parts.cfg.run.seed
        short = round(rl.curriculum * rl.steps) * rl.states
        held_in = list(self.parts.held_in)
        spans = {task_id: span(task) for task_id, task in self.parts.held_in.items()}
        learned = self.cursor.experience, short, rl.pool_states, spans
        return StatePool.load(self.parts.run.pool_file, seed, held_in, rl.sampling, *learned)
