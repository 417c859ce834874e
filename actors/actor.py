"""One actor: a policy in a vLLM engine and an environment with its sandboxes, doing many steps at once.

Runs as a Ray async actor. Invariants: a response's experiment starts as soon as it is sampled, so generation and
experiments overlap within and between groups; every ticket is answered once, while the engine lives; a dead engine
ends the actor's loop with an error that names it; torch and vLLM are imported in the actor's process alone, not by
those who only call it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import pickle
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from actors.explorer import Explorer
from actors.policy.endpoint import Ask, Reply
from actors.policy.errors import PolicyDead
from envs import audit
from envs.actions import FinalAnswer
from envs.prompt import PromptError
from envs.records import Outcome, Reached, State, StepInfo, StepResult, Task, Told, Transition
from envs.research_actions import Editor
from reward import Reward, Terms, reward, shared

if TYPE_CHECKING:
    from actors.policy.weights import Bucket

STRIDE = 7919
"""Between the seeds of an episode's actions, so that they are none of another episode of its group."""
ARRIVAL_SECONDS = 0.05
"""Between looks at whether all requests of a wave have reached the engine."""


class Actor(Explorer):
    """Serves the policy and runs its experiments on one node; all methods are coroutines of one event loop."""

    def __init__(self, actor_id: str, cfg: Any, tasks: Sequence[Task], model_dir: str, run_dir: str, version: int):
        from actors.policy.policy import Policy

        super().__init__(actor_id, cfg, tasks, model_dir, run_dir, version)
        self._weights: list[Bucket] = []
        self._receiving = asyncio.Lock()
        self._policy = Policy(actor_id, model_dir, cfg, version)
        self._serves = asyncio.Event()

    def __repr__(self) -> str:
        return f"{self._id}: policy and its experiments"

    async def start(self) -> dict[str, Any]:
        """As `Explorer.start`; experiments can run before the engine serves."""
        self._loop = asyncio.get_running_loop()
        return await super().start()

    async def serve(self) -> dict[str, Any]:
        """Start the engine; returns engine_seconds, that it took."""
        started = time.monotonic()
        await self._policy.start()
        self._serves.set()
        return {"engine_seconds": time.monotonic() - started}

    def _editor(self) -> Editor:
        """What carries out the actions that need another model: an endpoint, or the policy itself."""

        def ask(prompt: str) -> str:
            return self._wait(self._answer(self._chat.question(prompt), 0, 0.0, self._cfg.model.response)).text

        return super()._editor() or ask

    def _ask(self) -> Ask:
        """How a language model is asked that is an expert: an endpoint, or the model that is served here."""
        experts = self._cfg.experts
        if experts.endpoint:
            return super()._ask()

        def ask(messages: Sequence[Mapping[str, str]], seed: int) -> Reply:
            ids, most = self._chat.conversation(messages), experts.context - experts.response
            if len(ids) > most:
                raise PromptError(f"a question has {len(ids)} tokens, over the {most} of experts.context less response")
            return self._wait(self._answer(ids, seed, experts.temperature, experts.response))

        return ask

    def _wait(self, answer: Coroutine[Any, Any, Reply]) -> Reply:
        """What the event loop computes, for a thread."""
        return asyncio.run_coroutine_threadsafe(answer, self._loop).result()

    async def _answer(self, ids: np.ndarray, seed: int, temperature: float, longest: int) -> Reply:
        async with asyncio.timeout(self._cfg.actors.deadline):
            await self._serves.wait()
        sample = await self._policy.sample(ids, seed, temperature, longest, self._chat.end_token)
        said = self._chat.said(sample.response_ids, sample.text)
        return Reply(said, len(ids), len(sample.response_ids), sample.truncated)

    async def attempt(self, state: State, seeds: Sequence[int], group_id: str) -> list[Transition]:
        """One transition per seed from `state`.

        Raises:
            PolicyDead: the engine has died.
        """
        prompt_ids = self._prompt(state)
        names = [f"{group_id}/{number:03d}" for number in range(len(seeds))]
        steps = [self._act(name, group_id, state, prompt_ids, seed) for name, seed in zip(names, seeds, strict=True)]
        return [transition for transition, _ in await asyncio.gather(*steps)]

    async def _episodes(self, state: State, seeds: Sequence[int], group_id: str) -> list[Transition]:
        """The transitions of one episode per seed, from `state` on. Raises PolicyDead."""
        names = [f"{group_id}/{number:03d}" for number in range(len(seeds))]
        episodes = [self._episode(name, group_id, state, seed) for name, seed in zip(names, seeds, strict=True)]
        return [transition for episode in await asyncio.gather(*episodes) for transition in episode]

    async def _episode(self, name: str, group_id: str, state: State, seed: int) -> list[Transition]:
        """An episode of at most `rl.episode_steps` actions; it ends early where the next prompt would be too long."""
        made: list[Transition] = []
        for step in range(self._cfg.rl.episode_steps):
            try:
                prompt_ids = self._prompt(state)
            except PromptError:
                if not made:
                    raise
                break
            transition, state = await self._act(f"{name}/{step:02d}", group_id, state, prompt_ids, seed + step * STRIDE)
            made.append(transition)
            if transition.outcome is Outcome.INFRA_FAILURE or transition.info.action == FinalAnswer.kind:
                break
        return credited(made)

    async def evaluate(self, task_id: str, attempts: int, seed: int) -> list[Transition]:
        """Attempts from the task's initial state with seeds `seed`, `seed` + 1, …"""
        state = self._environment.initial_state(task_id)
        group_id = f"evaluate/{task_id}/v{self._policy.version}"
        return await self.attempt(state, range(seed, seed + attempts), group_id)

    async def collect(self, stream: Any) -> None:
        """Sample groups until the stream admits no more, `loops` at once.

        Raises:
            PolicyDead: the engine has died; the stream still counts its groups as in flight.
        """
        if self._cfg.rl.max_staleness == 0:
            await self._collect_waves(stream)
        else:
            await asyncio.gather(*(self._collect(stream) for _ in range(loops(self._cfg))))

    async def _collect(self, stream: Any) -> None:
        ticket = await stream.admit.remote(self._id)
        while ticket:
            if made := await self._group(stream, ticket):
                ticket = await stream.exchange.remote(self._id, ticket.group_id, *made)
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
            for ticket, made in zip(tickets, await asyncio.gather(*groups), strict=True):
                if made:
                    await stream.put.remote(self._id, ticket.group_id, *made)

    async def _group(self, stream: Any, ticket: Any) -> tuple[bytes, list[Told]] | None:
        """The transitions of a ticket, pickled, and what those tell that count; None where it was given back.

        Raises:
            PolicyDead: the engine has died; whoever replaces this actor gives its groups back.
        """
        try:
            sample = self._episodes if self._cfg.rl.episode_steps > 1 else self.attempt
            transitions = await sample(ticket.state, ticket.seeds, ticket.group_id)
        except PolicyDead:
            raise
        except Exception as error:  # one group's defect must not end the others; the stream counts its tries
            await stream.fail.remote(self._id, ticket.group_id, f"{type(error).__name__}: {error}")
            return None
        told = [Told(t.reward, t.reached, t.tried) for t in transitions if not t.masked]
        return pickle.dumps(transitions, protocol=5), told

    async def catch_up(self, m_init: dict[str, float], version: int, buckets: Sequence[ray.ObjectRef]) -> int:
        """As `Explorer.catch_up`, and the weights; returns the weight version that it serves."""
        await super().catch_up(m_init, version, buckets)
        if buckets:
            await self.receive(version, buckets)
        return self._policy.version

    async def receive(self, version: int, buckets: Sequence[ray.ObjectRef]) -> float:
        """Serve new weights; returns the seconds that it took to restore them from differences.

        Raises:
            BaseMissing: they are differences from a version that this actor has not got.
        """
        from actors.policy.card import CardWeights
        from actors.policy.weights import restore

        async with self._receiving:  # differences build on what came before
            sent = await asyncio.gather(*buckets)
            if sent and isinstance(sent[0], CardWeights):  # nothing comes this way of what was broadcast
                await self._policy.load_from_card(sent[0])
                return 0.0
            before = self._weights or [None] * len(buckets)
            started = time.monotonic()  # beside the loop, which serves on: differences of 269 MB take a CPU second
            made = (asyncio.to_thread(restore, one, old) for one, old in zip(sent, before, strict=True))
            weights = await asyncio.gather(*made)
            restored = time.monotonic() - started
            await self._policy.update_weights(weights, version)
            if self._cfg.learner.full_every > 1:
                self._weights = weights
        return restored

    async def rest(self) -> None:
        """Have the engine give up the memory of its card. Raises PolicyDead."""
        await self._policy.rest()

    async def wake(self) -> None:
        """Have the engine serve again. Raises PolicyDead."""
        await self._policy.wake()

    async def join_group(self, init_info: dict[str, Any]) -> None:
        """Be one of those to whom the learner broadcasts its weights."""
        await self._policy.join_group(init_info)

    async def receive_broadcast(self, version: int, update_info: dict[str, Any], sent: dict[str, str]) -> None:
        """Serve the weights that the learner is broadcasting; sent: what vLLM's digests of some must be."""
        await self._policy.receive_broadcast(update_info, version, sent)

    async def status(self) -> dict[str, int]:
        """As `Explorer.status`, with the responses being generated, the tokens so far, and the weight version.

        Raises:
            PolicyDead: the engine has died.
        """
        self._policy.require_life()
        policy = {"generating": self._policy.running, "tokens": self._policy.tokens, "version": self._policy.version}
        return await super().status() | policy

    async def close(self) -> None:
        """End the engine and the sandboxes."""
        self._policy.close()
        await super().close()

    async def _act(
        self, name: str, group_id: str, state: State, prompt_ids: np.ndarray, seed: int
    ) -> tuple[Transition, State]:
        """One action from `state`, and the state that it led to."""
        temperature, longest = self._cfg.rl.temperature, self._cfg.model.response
        with self._acts.doing(name, state.task_id) as runs:
            sample = await self._policy.sample(prompt_ids, seed, temperature, longest, self._chat.end_token)
            runs()
            used = len(sample.response_ids) / longest
            said = self._chat.said(sample.response_ids, sample.text)
            result = await self._step(state, said, sample.truncated, used)
        task = self._tasks[state.task_id]
        worth = self._reward(task, result)
        self._acts.tried(name, task.id, said, result, worth.value)
        transition = Transition(
            id=name,
            group_id=group_id,
            state_id=state.id,
            task_id=state.task_id,
            prompt_ids=prompt_ids,
            response_ids=sample.response_ids,
            behaviour_logprobs=sample.logprobs,
            version_spans=sample.version_spans,
            outcome=result.outcome,
            reward=worth.value,
            excluded=self._excluded(result),
            successor=result.state if self._joins(task, result) else None,
            reached=_reached(result),
            info=StepInfo(
                actor_id=self._id,
                text=sample.text,
                action=result.action,
                score_before=result.score_before,
                best_before=result.best_before,
                score_after=result.score_after,
                log_tail=result.log_tail,
                durations=result.durations,
                peak_mb=result.peak_mb,
                milestones=result.milestones,
                origin=result.origin,
                withheld=result.withheld,
                findings=result.findings,
                fault=result.fault,
                reward_parts=worth.parts,
                generate_seconds=sample.seconds,
                finished=time.time(),
            ),
        )
        return transition, result.state

    def _joins(self, task: Task, result: StepResult) -> bool:
        """Whether it led to a state that is to join the pool: a better script, and one that a prompt has room for."""
        return self._cfg.rl.grow_pool and _improved(task, result) and self._fits(result.state)

    def _excluded(self, result: StepResult) -> bool:
        """Whether it is left out of training, though it has a reward."""
        if result.outcome is Outcome.TRUNCATED:
            return self._cfg.reward.truncated == "mask"
        return self._cfg.audit.mask and audit.masks(result.findings)

    def _reward(self, task: Task, result: StepResult) -> Reward:
        if result.outcome is Outcome.INFRA_FAILURE:
            return Reward(0.0, {})  # masked wherever rewards are used
        return reward(result, task, Terms.of(self._cfg.reward))


def credited(episode: Sequence[Transition]) -> list[Transition]:
    """Its transitions, each worth the mean reward of those that are not masked: which of them earned it is unknown.

    This is what step-wise RL is compared with (ML-Agent, arXiv 2505.23723).
    """
    rewards = [t.reward for t in episode if not t.masked]
    worth = shared(rewards)
    parts = {"episode": worth}
    infos = [dataclasses.replace(t.info, reward_parts=parts) for t in episode]
    return [dataclasses.replace(t, reward=worth, info=info) for t, info in zip(episode, infos, strict=True)]


def loops(cfg: Any) -> int:
    """Groups that an actor has in hand at once: enough to fill the engine, and one more; or as many as its share of all
    that may be started, so that groups whose experiments take long do not keep the engine from sampling others."""
    rl, actors = cfg.rl, cfg.actors
    if rl.max_staleness == 0:
        return 1
    share = math.ceil((rl.max_staleness + 1) * rl.states / max(actors.count, actors.max))
    return max(math.ceil(actors.sequences / rl.actions) + 1, share)


def _reached(result: StepResult) -> Reached | None:
    over = result.outcome is Outcome.INFRA_FAILURE or result.action == FinalAnswer.kind
    return None if over else Reached(result.state.snapshot, result.state.score)


def _improved(task: Task, result: StepResult) -> bool:
    """Whether the script is better than before the action."""
    before, after = result.score_before, result.score_after
    better = after is not None and before is not None and (after - before) * task.direction.sign > 0
    return better and result.outcome is Outcome.EDITED
