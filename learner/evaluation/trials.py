"""Runs an evaluation over the cluster: fixed states, then every agent's attempts, agent after agent.

Invariants: all agents get the same tasks, states, seeds and budget; experiments are shared by one cache, so none is run
twice, whoever asks for it; only experiments that ran count; what is known is on disk after each agent.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import ray
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from actors.agents import POLICY, Agent, Agents, PolicyAgents
from actors.attempts import EPISODE, STEP, Attempt, Trial
from actors.policy.model import resolve
from actors.pool import ActorPool
from envs.records import State, Task
from learner.config.schema import Config
from learner.evaluation import evaluation, scoreboard
from learner.evaluation.evaluation import EvaluationError
from learner.figures.action_text import visible
from learner.recipe import warmstart
from learner.run.beforehand import load_tasks
from learner.run.preparation import connect, measure, places
from learner.run.progress import Progress

TRAJECTORIES = 4
"""Of the built-in expert on each task, for the fixed states; the same at every evaluation with the same seed."""
AT_ONCE = 16
"""Attempts without a policy on one actor; their experiments start as they fit."""


def run(cfg: Config, agents: Sequence[Agent], folder: Path) -> dict[str, Any]:
    """Evaluate the agents and write `evaluation.json` and `attempts.jsonl` in `folder`; returns the former's content.

    Raises:
        EvaluationError: experiments would be simulated, or another process evaluates in this folder.
        One of `envs.errors.FAILURES`.
    """
    if cfg.sandbox.backend == "simulated":
        raise EvaluationError("sandbox.backend=simulated: an evaluation counts only experiments that ran")
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(FileLock(folder / ".lock", timeout=0))
        except Timeout as error:
            raise EvaluationError(f"{folder} is in use by another process: choose another evaluation.folder") from error
        progress = stack.enter_context(Progress(folder))
        progress.stage("start", 2)
        tasks = load_tasks(cfg)
        models = {agent: str(resolve(agent.model)) for agent in agents if agent.kind == POLICY}
        connect(cfg)
        stack.callback(ray.shutdown)
        attempts_of: dict[str, list[Attempt]] = {}
        with _without_policy(cfg, tasks, folder, progress) as actors:
            tasks = measure(tasks, actors)
            progress.advance()
            progress.ready()
            states = _fixed_states(cfg, tasks, actors, progress)
            trials = plan(cfg, list(tasks), states)
            attempts = folder / "attempts.jsonl"
            attempts.write_bytes(b"")  # not before there are others to come
            for agent in agents:
                if agent.kind != POLICY:
                    attempts_of[agent.name] = _attempts(agent, trials, actors, AT_ONCE, progress, attempts)
                    result = _write(cfg, agents, tasks, states, attempts_of, folder)
        for agent, model in models.items():
            with _serving(cfg, agent, model, tasks, folder, progress) as actors:
                attempts_of[agent.name] = _attempts(agent, trials, actors, cfg.actors.sequences, progress, attempts)
                result = _write(cfg, agents, tasks, states, attempts_of, folder)
        for table in scoreboard.tables(result):
            progress.show(table)
        progress.say(f"evaluation {folder / 'evaluation.json'}")
        return result


def plan(cfg: Config, tasks: Sequence[str], states: Mapping[str, Sequence[State]]) -> list[Trial]:
    """The trials of each agent: the same for all."""
    settings = cfg.evaluation
    seeds = range(settings.seed, settings.seed + settings.attempts)
    steps = [Trial(STEP, task, state, 1, seed) for task in tasks for state in states[task] for seed in seeds]
    episodes = [Trial(EPISODE, task, None, settings.steps, seed, settings.seconds) for task in tasks for seed in seeds]
    return [*steps, *(episodes if settings.steps else [])]


def _fixed_states(
    cfg: Config, tasks: Mapping[str, Task], actors: ActorPool, progress: Progress
) -> dict[str, list[State]]:  # fmt: skip
    """Of each task `evaluation.states` that the built-in expert passes, of all kinds, the unchanged script first."""
    if not cfg.evaluation.states:
        return {task: [] for task in tasks}
    calls = [(task, number, ()) for task in tasks for number in range(TRAJECTORIES)]
    progress.stage("fixed states", len(calls))
    trajectories = {}
    for index, trajectory in actors.spread("explore", calls, each=AT_ONCE):
        trajectories[index] = trajectory
        progress.advance()
    passed = warmstart.states([trajectories[index] for index in range(len(calls))], tasks)
    fitting = [state for state, fits in zip(passed, actors.first("fits", passed), strict=True) if fits]
    chosen = warmstart.balanced(fitting, cfg.evaluation.states, cfg.evaluation.seed)
    fixed = {task: [state for state in chosen if state.task_id == task] for task in tasks}
    if without := [task for task, states in fixed.items() if not states]:
        raise EvaluationError(f"{', '.join(without)}: the prompt of the unchanged script is over model.context")
    return fixed


def _attempts(
    agent: Agent, trials: Sequence[Trial], actors: ActorPool, each: int, progress: Progress, file: Path
) -> list[Attempt]:
    calls = [(agent, trial) for trial in trials if not (agent.search and trial.setting == STEP)]
    progress.stage(f"evaluate {agent.name}", len(calls))
    done: dict[int, Attempt] = {}
    with file.open("ab") as lines:
        for index, attempt in actors.spread("rollout", calls, each=each):
            done[index] = attempt
            lines.write(msgspec.json.encode(attempt) + b"\n")
            progress.advance()
    if cut := [attempt.failure for attempt in done.values() if attempt.failure]:
        progress.say(f"{agent.name}: {len(cut)} of {len(calls)} attempts were cut, the last by: {visible(cut[-1])}")
    return [done[index] for index in range(len(calls))]


@contextlib.contextmanager
def _without_policy(
    cfg: Config, tasks: Mapping[str, Task], folder: Path, progress: Progress
) -> Iterator[ActorPool]:  # fmt: skip
    """Actors for all agents but policies; they also measure m_init and find the fixed states."""
    without_policy = _changed(cfg, {"run.name": "baselines", "experts.kind": "builtin", "actors.gpus": 0})
    model = str(resolve(cfg.model.path))
    actors = ActorPool(without_policy, list(tasks.values()), model, str(folder), 0, progress.say, list, Agents)
    with contextlib.closing(actors):
        for line in places(actors.started()):
            progress.say(line)
        progress.advance()
        yield actors


@contextlib.contextmanager
def _serving(
    cfg: Config, agent: Agent, model: str, tasks: Mapping[str, Task], folder: Path, progress: Progress
) -> Iterator[ActorPool]:
    """Actors that serve the agent's policy."""
    progress.stage(f"start {agent.name}", 1)
    serving = _changed(cfg, {"run.name": f"policy-{agent.name.replace('/', '-')}", "model.path": model})
    actors = ActorPool(serving, list(tasks.values()), model, str(folder), 0, progress.say, list, PolicyAgents)
    with contextlib.closing(actors):
        actors.started()
        actors.set_baselines({name: task.m_init for name, task in tasks.items()})
        progress.advance()
        yield actors


def _changed(cfg: Config, keys: Mapping[str, Any]) -> Config:
    changed = copy.deepcopy(cfg)
    OmegaConf.set_readonly(changed, False)
    for name, value in keys.items():
        OmegaConf.update(changed, name, value)
    OmegaConf.set_readonly(changed, True)
    return changed


def _write(
    cfg: Config,
    agents: Sequence[Agent],
    tasks: Mapping[str, Task],
    states: Mapping[str, Sequence[State]],
    attempts_of: Mapping[str, Sequence[Attempt]],
    folder: Path,
) -> dict[str, Any]:
    known = [agent for agent in agents if agent.name in attempts_of]
    settings = {
        **{name: cfg.evaluation[name] for name in ("attempts", "seed", "steps")},
        "states": {task: [state.kind for state in of_task] for task, of_task in states.items()},
        **{f"model.{name}": cfg.model[name] for name in ("context", "response")},
        "rl.temperature": cfg.rl.temperature,
        "reward.version": cfg.reward.version,
        "reward.steepness": cfg.reward.steepness,
    }
    result = {
        "settings": settings,
        "agents": [dataclasses.asdict(agent) for agent in known],
        **scoreboard.result([agent.name for agent in known], attempts_of, tasks),
    }
    evaluation.write(folder, result)
    return result
