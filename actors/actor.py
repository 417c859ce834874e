"""One actor: a policy in a vLLM engine and an environment with its sandboxes, doing many steps at once.

Runs as a Ray async actor. Invariants: a response's experiment starts as soon as it is sampled, so generation and
experiments overlap within and between groups; every ticket is answered once, while the engine lives; a dead engine
ends the actor's loop with an error that names it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
import pickle
import random
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import ray

from actors import expert
from actors.chat import Chat
from actors.policy import Policy, PolicyDead
from actors.weights import Bucket, restore
from envs.admission import Capacity, node_capacity
from envs.editor import EndpointEditor
from envs.environment import Environment, usage
from envs.experiment_cache import CachedRunner
from envs.experiments import Runner, SandboxRunner
from envs.prompt import PromptError
from envs.records import Outcome, State, StepResult, Task, Transition
from envs.research_actions import Editor
from envs.sandbox import SandboxFailure, SandboxPool
from envs.simulated import SimulatedRunner
from envs.workspace import SnapshotStore
from reward import Reward, Terms, reward

Result = TypeVar("Result")
ARRIVAL_SECONDS = 0.05
"""Between looks at whether all requests of a wave have reached the engine."""


class Actor:
    """Serves the policy and runs its experiments on one node; all methods are coroutines of one event loop."""

    def __init__(self, actor_id: str, cfg: Any, tasks: Sequence[Task], model_dir: str, run_dir: str, version: int):
        self._id, self._cfg, self._run_dir = actor_id, cfg, Path(run_dir)
        self._tasks = {task.id: task for task in tasks}
        self._model_dir, self._grows = model_dir, cfg.rl.grow_pool
        self._weights: list[Bucket] = []
        self._receiving = asyncio.Lock()
        self._policy = Policy(actor_id, model_dir, cfg, version)
        # As many as responses in flight, so that all who wait stand in one line: that of the admission.
        self._threads = ThreadPoolExecutor(cfg.actors.sequences, thread_name_prefix="experiment")

    async def start(self) -> dict[str, Any]:
        """Start engine and sandboxes; returns what they are (sandbox, host, node, pid, engine_seconds)."""
        started, model = time.monotonic(), self._cfg.model
        self._chat = Chat(self._model_dir, model.context, model.response)
        runner, _ = await asyncio.gather(asyncio.to_thread(self._runner), self._policy.start())
        snapshots = SnapshotStore(self._cfg.sandbox.snapshots or self._run_dir / "snapshots")
        self._environment = Environment(self._tasks, runner, snapshots, self._editor())
        return {
            "sandbox": runner.name, "host": socket.gethostname(), "node": _node(),
            "pid": os.getpid(), "engine_seconds": time.monotonic() - started,
        }  # fmt: skip

    def _runner(self) -> Runner:
        """What runs the experiments, given a whole node until `share` says otherwise."""
        sandbox, recorded = self._cfg.sandbox, self._cfg.sandbox.cache_path or self._run_dir / "experiments"
        if sandbox.backend == "simulated":
            return SimulatedRunner(sandbox.recorded, self._capacity(actors=1), sandbox.speed)
        sandboxes = SandboxPool(sandbox.backend, sandbox.image, sandbox.warm, sandbox.packages)
        runner = SandboxRunner(sandboxes, self._capacity(actors=1), self._cfg.run.seed)
        return CachedRunner(runner, recorded) if sandbox.cache else runner

    def _editor(self) -> Editor:
        """What carries out the actions that need another model: an endpoint, or the policy itself."""
        chosen, loop = self._cfg.editor, asyncio.get_running_loop()
        if chosen.endpoint:
            return EndpointEditor(chosen.endpoint, chosen.model, chosen.key_variable)

        def ask(prompt: str) -> str:
            return asyncio.run_coroutine_threadsafe(self._answer(prompt), loop).result(self._cfg.actors.deadline)

        return ask

    async def _answer(self, text: str) -> str:
        """The policy's most likely answer to a question."""
        ids, longest = self._chat.question(text), self._cfg.model.response
        return (await self._policy.sample(ids, 0, 0.0, longest, self._chat.end_token)).text

    def _capacity(self, actors: int, position: int = 0) -> Capacity:
        sandbox, share = self._cfg.sandbox, node_capacity(actors)
        memory_mb = sandbox.memory_gb * 1024 or share.memory_mb
        return Capacity(sandbox.cpus or share.cpus, memory_mb, tuple(sandbox.gpus[position::actors]))

    async def share(self, actors: int, position: int) -> None:
        """Take an equal share of the node with the other actors on it; position: this one's among them."""
        self._environment.runner.resize(self._capacity(actors, position))

    async def baselines(self) -> dict[str, StepResult]:
        """The result of every task's unchanged script."""
        results = await asyncio.gather(*(self._run(self._environment.baseline, name) for name in self._tasks))
        return dict(zip(self._tasks, results, strict=True))

    async def set_baselines(self, m_init: dict[str, float]) -> None:
        for name, score in m_init.items():
            self._tasks[name] = dataclasses.replace(self._tasks[name], m_init=score)
        self._environment.tasks = self._tasks

    async def explore(
        self, task_id: str, seed: int, steps: int, mistakes: float
    ) -> list[tuple[State, str, StepResult]]:
        """A trajectory of the built-in expert: (state, action text, result) of each step.

        It ends early where the sandbox fails.

        Raises:
            SandboxFailure: the sandbox failed in the first step.
        """

        def trajectory() -> list[tuple[State, str, StepResult]]:
            rng, path = random.Random(f"{task_id}/{seed}"), []
            state = self._environment.initial_state(task_id)
            while len(path) < steps:
                files = self._environment.files(state)
                text = expert.propose(self._tasks[task_id], state, files, rng, mistakes)
                result = self._environment.step(state, text)
                if result.outcome is Outcome.INFRA_FAILURE:
                    if not path:
                        raise SandboxFailure(result.log_tail)
                    break
                path.append((state, text, result))
                state = result.state
            return path

        return await self._run(trajectory)

    async def fits(self, states: Sequence[State]) -> list[bool]:
        """Whether each state's prompt is within the model's context."""

        def fit(state: State) -> bool:
            try:
                self._prompt(state)
            except PromptError:
                return False
            return True

        return [fit(state) for state in states]

    async def encode(self, pairs: Sequence[tuple[State, str]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(prompt ids, response ids) of each (state, action text), int32, as they would be sampled."""
        return [(self._prompt(state), self._chat.response(text)) for state, text in pairs]

    async def attempt(self, state: State, seeds: Sequence[int], group_id: str) -> list[Transition]:
        """One transition per seed from `state`.

        Raises:
            PolicyDead: the engine has died.
        """
        prompt_ids = self._prompt(state)
        names = [f"{group_id}/{number:03d}" for number in range(len(seeds))]
        steps = [
            self._transition(name, group_id, state, prompt_ids, seed) for name, seed in zip(names, seeds, strict=True)
        ]
        return await asyncio.gather(*steps)

    async def evaluate(self, task_id: str, attempts: int, seed: int) -> list[Transition]:
        """Attempts from the task's initial state with seeds `seed`, `seed` + 1, …"""
        state = self._environment.initial_state(task_id)
        group_id = f"evaluate/{task_id}/v{self._policy.version}"
        return await self.attempt(state, range(seed, seed + attempts), group_id)

    async def collect(self, stream: Any) -> None:
        """Sample groups until the stream admits no more; enough at once to fill the engine, and one more.

        Raises:
            PolicyDead: the engine has died; the stream still counts its groups as in flight.
        """
        if self._cfg.rl.max_staleness == 0:
            await self._collect_waves(stream)
        else:
            loops = math.ceil(self._cfg.actors.sequences / self._cfg.rl.actions) + 1
            await asyncio.gather(*(self._collect(stream) for _ in range(loops)))

    async def _collect(self, stream: Any) -> None:
        ticket = await stream.admit.remote(self._id)
        while ticket:
            if transitions := await self._group(stream, ticket):
                ticket = await stream.exchange.remote(self._id, ticket.group_id, transitions)
            else:
                ticket = await stream.admit.remote(self._id)

    async def _collect_waves(self, stream: Any) -> None:
        """All groups of a learner step at once, in one order: what is sampled depends on what is sampled beside it,
        by rounding, so that with one actor a synchronous run can be repeated to the bit."""
        most = math.ceil(self._cfg.rl.states / self._cfg.actors.count)
        while tickets := await stream.wave.remote(self._id, most):
            async with self._policy.held():
                groups = [asyncio.create_task(self._group(stream, ticket)) for ticket in tickets]
                while self._policy.running < sum(len(ticket.seeds) for ticket in tickets):
                    await asyncio.sleep(ARRIVAL_SECONDS)
                    if any(group.done() for group in groups):
                        break
            for ticket, transitions in zip(tickets, await asyncio.gather(*groups), strict=True):
                if transitions:
                    await stream.put.remote(ticket.group_id, transitions)

    async def _group(self, stream: Any, ticket: Any) -> bytes | None:
        """The transitions of a ticket, pickled; None where it was given back.

        Raises:
            PolicyDead: the engine has died; whoever replaces this actor gives its groups back.
        """
        try:
            transitions = await self.attempt(ticket.state, ticket.seeds, ticket.group_id)
        except PolicyDead:
            raise
        except Exception as error:  # one group's defect must not end the others; the stream counts its tries
            await stream.fail.remote(ticket.group_id, f"{type(error).__name__}: {error}")
            return None
        return pickle.dumps(transitions, protocol=5)

    async def catch_up(self, m_init: dict[str, float], version: int, buckets: Sequence[ray.ObjectRef]) -> int:
        """What an actor that joins a run takes over from the others; returns the weight version that it serves."""
        await self.set_baselines(m_init)
        if buckets:
            await self.receive(version, buckets)
        return self._policy.version

    async def receive(self, version: int, buckets: Sequence[ray.ObjectRef]) -> float:
        """Serve new weights; returns the seconds it took.

        Raises:
            BaseMissing: they are differences from a version that this actor has not got.
        """
        started = time.monotonic()
        async with self._receiving:  # differences build on what came before
            before = self._weights or [None] * len(buckets)
            received = zip(await asyncio.gather(*buckets), before, strict=True)
            weights = [restore(one, old) for one, old in received]
            await self._policy.update_weights(weights, version)
            if self._cfg.learner.full_every > 1:
                self._weights = weights
        return time.monotonic() - started

    async def status(self) -> dict[str, int]:
        """Responses being generated, experiments that run, tokens generated so far, and the weight version."""
        return {
            "generating": self._policy.running, "experiments": self._environment.runner.running,
            "tokens": self._policy.tokens, "version": self._policy.version,
        }  # fmt: skip

    async def close(self) -> None:
        """End the engine and the sandboxes."""
        self._policy.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        if environment := getattr(self, "_environment", None):
            await asyncio.to_thread(environment.close)

    def _prompt(self, state: State) -> np.ndarray:
        return self._chat.prompt(self._tasks[state.task_id], state, self._environment.files(state))

    async def _transition(
        self, name: str, group_id: str, state: State, prompt_ids: np.ndarray, seed: int
    ) -> Transition:
        temperature, longest = self._cfg.rl.temperature, self._cfg.model.response
        sample = await self._policy.sample(prompt_ids, seed, temperature, longest, self._chat.end_token)
        result = await self._step(state, sample.text)
        task = self._tasks[state.task_id]
        worth = self._reward(task, result)
        return Transition(
            id=name,
            group_id=group_id,
            state_id=state.id,
            task_id=state.task_id,
            actor_id=self._id,
            prompt_ids=prompt_ids,
            response_ids=sample.response_ids,
            behaviour_logprobs=sample.logprobs,
            version_spans=sample.version_spans,
            text=sample.text,
            action=result.action,
            outcome=result.outcome,
            reward=worth.value,
            reward_parts=worth.parts,
            score_before=result.score_before,
            score_after=result.score_after,
            log_tail=result.log_tail,
            durations=result.durations,
            generate_seconds=sample.seconds,
            peak_mb=result.peak_mb,
            milestones=result.milestones,
            origin=result.origin,
            finished=time.time(),
            successor=result.state if self._grows and _improved(task, result) else None,
        )

    def _reward(self, task: Task, result: StepResult) -> Reward:
        if result.outcome is Outcome.INFRA_FAILURE:
            return Reward(0.0, {})  # masked wherever rewards are used
        chosen = self._cfg.reward
        terms = Terms(chosen.version, chosen.steepness, chosen.milestones, chosen.time, chosen.memory)
        return reward(
            result.outcome, result.score_before, result.score_after, task.m_init, task.m_best, task.direction,
            terms, usage(task, result),
        )  # fmt: skip

    async def _step(self, state: State, text: str) -> StepResult:
        """Apply an action; its time in the queue counts from now."""
        asked = time.monotonic()

        def step() -> StepResult:
            waited = time.monotonic() - asked
            result = self._environment.step(state, text)
            durations = dataclasses.replace(result.durations, queue=result.durations.queue + waited)
            return dataclasses.replace(result, durations=durations)

        return await self._run(step)

    async def _run(self, function: Callable[..., Result], *args: Any) -> Result:
        """Run blocking environment work on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)


def _node() -> str:
    """Ray's id of this node; asking for it outside of Ray would start one."""
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""


def _improved(task: Task, result: StepResult) -> bool:
    """Whether the script is better than before the action."""
    before, after = result.score_before, result.score_after
    better = after is not None and before is not None and (after - before) * task.direction.sign > 0
    return better and result.outcome is Outcome.EDITED
