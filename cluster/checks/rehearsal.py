"""A rehearsal of a learner step with the run's own model and settings: all engines, all learner ranks, one task.

Invariants: every part is the one that a run uses; what is trained is thrown away; all that was started is ended.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from omegaconf import OmegaConf

from actors.pool import ActorPool
from envs.records import Outcome, Task, Transition
from learner.config.schema import Config
from learner.ranks.handle import Learner
from learner.ranks.publisher import BUCKET_BYTES
from learner.ranks.turns import Turns
from learner.run.preflight import Finding, Verdict

RESPONSES = 4
SEED = 0


def settings(cfg: Config, name: str) -> Config:
    """No actor is replaced, there is one host of sandboxes if there are any, and weights are always checked."""
    trial = copy.deepcopy(cfg)
    OmegaConf.set_readonly(trial, False)
    trial.run.name, trial.run.mode = name, "ray"
    trial.actors.replacements = 0
    trial.sandbox.hosts = min(1, cfg.sandbox.hosts)
    trial.learner.check_every = 1
    trial.sandbox.cache, trial.sandbox.snapshots = False, ""
    return trial


def rehearse(cfg: Config, task: Task, model_dir: Path, name: str) -> Iterator[Finding]:
    """The findings as they come.

    name: of the rehearsal, which nothing else in the cluster has.

    Raises:
        UserError: what a run would end with.
    """
    cfg = settings(cfg, name)
    folder = Path(cfg.run.dir).resolve() / name
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        began = time.monotonic()
        resting = cfg.actors.colocate
        actors = ActorPool(cfg, [task], str(model_dir), str(folder), 0, lambda _: None, list, resting=resting)
        stack.callback(actors.close)
        learner = Learner(cfg, model_dir, lambda _: None)
        stack.callback(learner.close)
        turns = Turns(learner, actors)
        turns.actors()
        about = list(actors.started().values())
        seconds = time.monotonic() - began
        engines = "the engine" if len(about) == 1 else f"{len(about)} engines"
        where = ", ".join(sorted({one["host"] for one in about}))
        yield Finding("engine", Verdict.OK, f"{engines} and the learner start in {seconds:.0f} s, on {where}")

        baseline = actors.first("baselines")[task.id]
        if baseline.score_after is None:
            shown = f"{task.id}: its unchanged script ended as {baseline.outcome}: {baseline.log_tail[-300:]}"
            yield Finding("experiment", Verdict.FAILED, shown, f"`python -m envs check {task.id}` shows what to mend")
            return
        ran = f"{task.id}: {task.metric} = {baseline.score_after:.4g} in {baseline.durations.execute:.2f} s"
        yield Finding("experiment", Verdict.OK, f"{ran}, in the {about[0]['sandbox']} sandbox")
        actors.set_baselines({task.id: baseline.score_after})

        turns.learner()
        began = time.monotonic()
        published = learner.publish(BUCKET_BYTES, 1)
        packed = time.monotonic() - began
        turns.actors()
        actors.publish(1, published.buckets)
        taken = time.monotonic() - began - packed
        megabytes = published.full_bytes / 1e6
        shown = f"{megabytes:.0f} MB packed in {packed:.1f} s, served by {engines} {taken:.1f} s later"
        shown += ", with equal checksums"
        yield Finding("weights", Verdict.OK, shown)

        began = time.monotonic()
        group = actors.first("evaluate", task.id, RESPONSES, SEED)
        sampled = time.monotonic() - began
        turns.learner()
        report = learner.train([varied(group)], 1)
        yield log_probs(cfg, report.update.logprob_gap_mean, group, sampled, report.train_seconds)
        yield costs(cfg, sampled, report.train_seconds, packed + taken)


def varied(group: list[Transition]) -> list[Transition]:
    """The responses with rewards that differ, so that the learner computes their log-probs whatever came of them."""
    return [
        dataclasses.replace(t, reward=float(n % 2), outcome=Outcome.EDITED, excluded=False) for n, t in enumerate(group)
    ]


def log_probs(cfg: Config, gap: float, group: list[Transition], sampled: float, trained: float) -> Finding:
    """Whether engine and learner agree on the probabilities of the same tokens; gap: mean |difference| in nats."""
    tokens = sum(len(transition.response_ids) for transition in group)
    shown = f"mean gap between engine and learner {gap:.4f} on {tokens} tokens"
    shown += f" (sampled and run in {sampled:.1f} s, trained on in {trained:.1f} s)"
    if gap > cfg.rl.gap_stop:
        fix = (
            "try model.dtype=float32; a run stops there, since it would train on other probabilities than were sampled"
        )
        return Finding("log-probs", Verdict.FAILED, f"{shown}, above rl.gap_stop={cfg.rl.gap_stop:g}", fix)
    return Finding("log-probs", Verdict.OK, f"{shown}, below rl.gap_stop={cfg.rl.gap_stop:g}")


def costs(cfg: Config, sampled: float, trained: float, published: float) -> Finding:
    """What reinforcement takes, by the seconds of `RESPONSES` samples of one engine, and of publishing: at least, where
    all samples of a step go as fast beside each other as these few did, and at most, where they go one after the other.
    """
    rl, actors, learner, prices = cfg.rl, cfg.actors, cfg.learner, cfg.report
    times = math.ceil(rl.states * rl.actions * max(1, rl.episode_steps) / RESPONSES)
    in_turn = sum if actors.colocate or not rl.max_staleness else max
    steps = (
        in_turn((sampled, trained)) + published,
        in_turn((sampled * math.ceil(times / actors.count), trained * times)) + published,
    )
    cpus, gpus = (learner.ranks * getattr(learner, of) + actors.count * getattr(actors, of) for of in ("cpus", "gpus"))
    hourly = gpus * prices.gpu_hour + cpus * prices.cpu_hour
    hours = [rl.steps * seconds / 3600 for seconds in steps]
    least, most = (f"{60 * one:,.1f} min ({one * hourly:,.2f} {prices.currency})" for one in hours)
    held = f"{gpus:g} GPU{'s' * (gpus != 1)} and {cpus:g} core{'s' * (cpus != 1)}"
    shown = f"{rl.steps} learner steps take {least} to {most}, of {held}; fine-tuning and evaluation come on top"
    return Finding("costs", Verdict.OK, shown)
