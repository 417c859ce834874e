"""Where experts explore: an environment with its sandboxes on one node, and no policy.

Runs as a Ray async actor; `actors.actor.Actor` is one that serves the policy too. Invariants: all methods are
coroutines of one event loop, and what blocks runs on threads; a trajectory whose sandbox or endpoint fails ends there
and says so, and what it had is kept.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import ray

from actors.acting import Acts
from actors.expert import ideas as idea_pool
from actors.expert.builtin import BuiltinExpert, Expert, last_that_ran
from actors.expert.llm import LanguageModelExpert
from actors.expert.operators import Idea
from actors.expert.trajectory import Move, Trajectory, ending
from actors.hosts import HostedRunner, local_runner, snapshot_store
from actors.policy.chat import Chat, plain
from actors.policy.endpoint import Ask, Endpoint, EndpointError
from envs import relief
from envs.actions import FinalAnswer
from envs.admission import Capacity, node_capacity
from envs.editor import EndpointEditor
from envs.environment import Environment
from envs.experiment_cache import CachedRunner
from envs.experiments import Runner
from envs.prompt import Extent, PromptError
from envs.records import Outcome, State, StepResult, Task
from envs.research_actions import Editor
from envs.simulated import SimulatedRunner
from envs.workspace import SnapshotStore

Result = TypeVar("Result")

SWITCH_SECONDS = 0.0005
"""So long a thread may keep the interpreter from others. Restoring and grading an experiment are short system calls,
after each of which the thread asks for the interpreter again, and the one that feeds the engine rarely leaves it by
itself: with Python's own 0.005 s they take several times as long, and it gains nothing (`tests/bench/env_scale.py`)."""


class Explorer:
    """Runs experiments on one node, and the experts that propose them."""

    def __init__(self, actor_id: str, cfg: Any, tasks: Sequence[Task], model_dir: str, run_dir: str, version: int):
        self._id, self._cfg, self._run_dir = actor_id, cfg, Path(run_dir)
        self._tasks = {task.id: task for task in tasks}
        self._model_dir, self._extent = model_dir, Extent.of(cfg.prompt)
        self._acts = Acts(actor_id, self._run_dir)
        self._steps = 0
        """Actions whose result is not there yet."""
        # As many as responses in flight, so that all who wait stand in one line: that of the admission.
        self._threads = ThreadPoolExecutor(cfg.actors.sequences, thread_name_prefix="experiment")

    def __repr__(self) -> str:  # Ray's dashboard shows it
        return f"{self._id}: experts and their experiments"

    async def start(self) -> dict[str, Any]:
        """Start the sandboxes; returns what this is (sandbox, host, node, pid)."""
        sys.setswitchinterval(SWITCH_SECONDS)
        model = self._cfg.model
        self._chat = Chat(
            self._model_dir, model.context, model.response, list(model.thinking), plain(model.template_arguments),
            self._extent,
        )  # fmt: skip
        snapshots = snapshot_store(self._cfg, self._run_dir)
        runner = await asyncio.to_thread(self._runner, snapshots)
        self._environment = Environment(
            self._tasks, runner, snapshots, self._editor(), self._cfg.prompt.observation
        )  # fmt: skip
        return {"sandbox": runner.name, "host": socket.gethostname(), "node": _node(), "pid": os.getpid()}

    async def serve(self) -> dict[str, Any]:
        """Start what else an actor has to offer; returns what that is: here, nothing."""
        return {}

    def _runner(self, snapshots: SnapshotStore) -> Runner:
        """What runs the experiments, given a whole node until `share` says otherwise."""
        sandbox, recorded = self._cfg.sandbox, self._cfg.sandbox.cache_path or self._run_dir / "experiments"
        if sandbox.backend == "simulated":
            return SimulatedRunner(sandbox.recorded, self._capacity(actors=1), sandbox.speed)
        if sandbox.hosts:
            runner = HostedRunner(self._cfg)
        else:
            runner = local_runner(self._cfg, self._id, self._capacity(actors=1), snapshots)
        return CachedRunner(runner, recorded, snapshots) if sandbox.cache else runner

    def _editor(self) -> Editor | None:
        """What carries out the actions that need another model."""
        chosen = self._cfg.editor
        return EndpointEditor(chosen.endpoint, chosen.model, chosen.key_variable) if chosen.endpoint else None

    def _capacity(self, actors: int, position: int = 0) -> Capacity:
        sandbox, share = self._cfg.sandbox, node_capacity(actors)
        memory_mb = sandbox.memory_gb * 1024 or share.memory_mb
        return Capacity(sandbox.cpus or share.cpus, memory_mb, tuple(sandbox.gpus[position::actors]))

    async def share(self, actors: int, position: int) -> None:
        """Take an equal share of the node with the other actors on it; position: this one's among them."""
        self._environment.runner.resize(self._capacity(actors, position))
        self._environment.runner.expect(self._tasks.values())

    async def baselines(self) -> dict[str, StepResult]:
        """The result of every task's unchanged script."""
        results = await asyncio.gather(*(self._run(self._environment.baseline, name) for name in self._tasks))
        return dict(zip(self._tasks, results, strict=True))

    async def set_baselines(self, m_init: dict[str, float]) -> None:
        for name, score in m_init.items():
            self._tasks[name] = dataclasses.replace(self._tasks[name], m_init=score)
        self._environment.tasks = self._tasks

    async def catch_up(self, m_init: dict[str, float], version: int, buckets: Sequence[ray.ObjectRef]) -> int | None:
        """What one that joins a run takes over from the others; returns the weight version it serves: here, none."""
        await self.set_baselines(m_init)
        return None

    async def ideas(self, task_id: str, seed: int) -> tuple[int, list[Idea]]:
        """How many candidates there were, and the idea pool of a task: those that differ most.

        Raises:
            IdeaError: the task's script does not parse, or there is no such embedding.
            EndpointError: the expert's endpoint failed.
        """
        experts, task = self._cfg.experts, self._tasks[task_id]

        def chosen() -> tuple[int, list[Idea]]:
            embed = idea_pool.embedding(experts.embeddings, experts.embedding_model, experts.key_variable)
            found = self._expert().candidates(task, experts.candidates)
            return len(found), idea_pool.pool(found, experts.ideas, embed, seed)

        return await self._run(chosen)

    async def explore(self, task_id: str, number: int, ideas: Sequence[Idea]) -> Trajectory:
        """A trajectory of the expert; seeded with one to three random ideas of the pool."""
        return await self._run(self._explore, task_id, number, ideas)

    def _explore(self, task_id: str, number: int, ideas: Sequence[Idea]) -> Trajectory:
        rng = random.Random(f"{self._cfg.run.seed}/{task_id}/{number}")
        expert, task, failure = self._expert(), self._tasks[task_id], ""
        given = idea_pool.seeds(ideas, rng)
        state, moves = self._environment.initial_state(task_id), []
        while len(moves) < self._cfg.experts.steps:
            files = self._environment.files(state)
            ran = last_that_ran(state)
            working = self._environment.files(dataclasses.replace(state, snapshot=ran))[task.script] if ran else None
            name = f"expert/{task_id}/{number}/{len(moves):02d}"
            with self._acts.doing(name, task_id) as runs:
                try:
                    reply = expert.propose(task, state, files, working, given, rng)
                except (EndpointError, PromptError) as error:
                    failure = str(error)
                    break
                runs()
                result = self._environment.step(state, reply.text, reply.truncated)
            self._acts.tried(name, task_id, reply.text, result, None)
            if result.outcome is Outcome.INFRA_FAILURE:
                failure = result.log_tail
                break
            moves.append(Move(state, reply.text, result))
            state = result.state
            if result.action == FinalAnswer.kind:
                break
        words = tuple(idea.text for idea in given)
        return Trajectory(task_id, number, expert.name, words, tuple(moves), ending(moves, task, failure), failure)

    def _expert(self) -> Expert:
        experts = self._cfg.experts
        if experts.kind == "llm":
            return LanguageModelExpert(self._ask(), experts.model, experts.context - experts.response, self._extent)
        longest = self._cfg.model.response
        return BuiltinExpert(
            experts.mistakes, lambda text: len(self._chat.response(text)) <= longest, experts.steps
        )  # fmt: skip

    def _ask(self) -> Ask:
        """How a language model is asked that is an expert."""
        experts = self._cfg.experts
        return Endpoint(
            experts.endpoint, experts.model, experts.key_variable, experts.temperature, experts.response,
            plain(experts.template_arguments),
        )  # fmt: skip

    async def fits(self, states: Sequence[State]) -> list[bool]:
        """Whether each state's prompt is within the model's context."""
        return [self._fits(state) for state in states]

    def _fits(self, state: State) -> bool:
        try:
            self._prompt(state)
        except PromptError:
            return False
        return True

    async def encode(self, pairs: Sequence[tuple[State, str]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(prompt ids, response ids) of each (state, action text), int32, as they would be sampled."""
        return [(self._prompt(state), self._chat.response(text)) for state, text in pairs]

    async def status(self) -> dict[str, int]:
        """Experiments that run, actions that wait to be, and whether they do with less memory (0 or 1)."""
        running = self._environment.runner.running
        return {"experiments": running, "queued": max(0, self._steps - running), "lean": int(relief.active())}

    async def close(self) -> None:
        """End the sandboxes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._acts.close)
        if environment := getattr(self, "_environment", None):
            await asyncio.to_thread(environment.close)

    def _prompt(self, state: State) -> np.ndarray:
        return self._chat.prompt(self._tasks[state.task_id], state, self._environment.files(state))

    async def _step(self, state: State, text: str, truncated: bool, used: float) -> StepResult:
        """Apply an action; its time in the queue counts from now.

        truncated: it was cut by its limit of tokens; used: share of that limit that it took.
        """
        arrived = time.monotonic()
        self._steps += 1

        def step() -> StepResult:
            waited = time.monotonic() - arrived
            result = self._environment.step(state, text, truncated)
            durations = dataclasses.replace(result.durations, queue=result.durations.queue + waited)
            return dataclasses.replace(result, durations=durations, response_used=used)

        try:
            return await self._run(step)
        finally:
            self._steps -= 1

    async def _run(self, function: Callable[..., Result], *args: Any) -> Result:
        """Run blocking environment work on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)


def _node() -> str:
    """Ray's id of this node; asking for it outside of Ray would start one."""
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
