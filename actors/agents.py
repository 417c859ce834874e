"""Agents that are evaluated, each on the actors that it needs: a policy on those with an engine, all others on those
without one.

Runs as a Ray async actor. Invariant: an agent's attempt depends only on the agent, the trial and the sandbox; what an
agent writes goes the way of the policy's actions, whoever it is.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from actors import attempts
from actors.actor import Actor
from actors.attempts import Answer, Attempt, Propose, Trial, Tried
from actors.expert import builtin as expert
from actors.expert import edits, operators
from actors.expert.script import Script, Unreadable
from actors.explorer import Explorer
from actors.policy import stand_in
from actors.policy.chat import plain
from actors.policy.endpoint import Endpoint
from envs.records import State, StepResult, Task
from envs.sandbox import SandboxFailure
from reward import Terms, reward

POLICY, ENDPOINT, RANDOM, EXPERT = "policy", "endpoint", "random", "expert"


@dataclass(frozen=True)
class Agent:
    """Who is evaluated."""

    name: str
    kind: str
    model: str = ""
    """policy: folder or hub id; endpoint: name of the model there."""
    url: str = ""
    search: bool = False
    """Its proposals are searched with in whole episodes (`attempts.greedy`), not followed one after the other."""


class Agents(Explorer):
    """Random ideas, the built-in expert, and models behind endpoints."""

    def __init__(self, *about: Any):
        super().__init__(*about)
        self._tests: dict[tuple[str, str], float | None] = {}
        self._endpoints: dict[Agent, Endpoint] = {}

    async def rollout(self, agent: Agent, trial: Trial) -> Attempt:
        """One attempt. Raises PolicyDead."""
        task = self._tasks[trial.task_id]
        start = trial.state or self._environment.initial_state(trial.task_id)
        if agent.search:
            path, failure = await attempts.greedy(self._proposer(agent), self._apply, trial, start, task.direction)
        else:
            path, failure = await attempts.straight(self._proposer(agent), self._apply, trial, start)
        tried = tuple(self._tried(task, answer, result) for answer, result in path)
        tested = await self._run(self._tested, start)
        return Attempt(
            agent.name, trial.setting, task.id, start.id, trial.seed, start.reference, tried, failure, tested
        )  # fmt: skip

    async def _apply(self, state: State, answer: Answer) -> StepResult:
        return await self._step(state, answer.text, answer.truncated, answer.used)

    def _proposer(self, agent: Agent) -> Propose:
        async def propose(state: State, seed: int) -> Answer:
            return await self._run(self._propose, agent, state, seed)

        return propose

    def _propose(self, agent: Agent, state: State, seed: int) -> Answer:
        task, files, rng = self._tasks[state.task_id], self._environment.files(state), random.Random(seed)
        if agent.kind == ENDPOINT:
            return self._asked(agent, task, state, files, seed)
        ran = expert.last_that_ran(state)
        working = self._environment.files(dataclasses.replace(state, snapshot=ran))[task.script] if ran else None
        if agent.kind == RANDOM:
            present = files[task.script]
            return Answer(random_idea(task, working or present, present, rng, self._short))
        return Answer(expert.propose(task, state, files, rng, 0.0, (), working, self._short))

    def _tested(self, state: State) -> float | None:
        """The test score beside the state's reference, which states do not hold: that script is run once more, or found
        in the cache."""
        script = dataclasses.replace(state, snapshot=expert.last_that_ran(state) or state.snapshot)
        if (state.task_id, script.snapshot) not in self._tests:
            try:
                run = self._environment.runner.run(self._tasks[state.task_id], self._environment.workspace(script))
            except SandboxFailure:
                return None
            self._tests[state.task_id, script.snapshot] = run.withheld and run.withheld.test
        return self._tests[state.task_id, script.snapshot]

    def _short(self, text: str) -> bool:
        """Whether the policy could write so long a text."""
        return len(self._chat.response(text)) <= self._cfg.model.response

    def _asked(self, agent: Agent, task: Task, state: State, files: dict[str, str], seed: int) -> Answer:
        """The answer of a model behind an endpoint, asked as the policy is, within the limits of an expert."""
        experts, temperature = self._cfg.experts, self._cfg.rl.temperature
        if not (ask := self._endpoints.get(agent)):
            ask = self._endpoints[agent] = Endpoint(
                agent.url, agent.model, experts.key_variable, temperature, experts.response,
                plain(experts.template_arguments),
            )  # fmt: skip
        started = time.monotonic()
        reply = stand_in.propose(ask, task, state, files, experts.context - experts.response, seed, self._extent)
        return Answer(
            reply.text, reply.prompt_tokens, reply.response_tokens, time.monotonic() - started, reply.truncated,
            reply.response_tokens / experts.response,
        )  # fmt: skip

    def _tried(self, task: Task, answer: Answer, result: StepResult) -> Tried:
        worth = reward(result, task, Terms.of(self._cfg.reward))
        return Tried(
            answer.text, result.action, result.outcome, result.state.score, result.score_before, result.score_after,
            worth.value, answer.prompt_tokens, answer.response_tokens, answer.seconds, result.durations, result.origin,
            result.withheld, result.log_tail, result.fault,
        )  # fmt: skip


class PolicyAgents(Agents, Actor):
    """Agents whose proposals are sampled from the policy that this actor serves."""

    def _proposer(self, agent: Agent) -> Propose:
        async def propose(state: State, seed: int) -> Answer:
            ids, longest = self._prompt(state), self._cfg.model.response
            sample = await self._policy.sample(ids, seed, self._cfg.rl.temperature, longest, self._chat.end_token)
            tokens, said = len(sample.response_ids), self._chat.said(sample.response_ids, sample.text)
            return Answer(said, len(ids), tokens, sample.seconds, sample.truncated, tokens / longest)

        return propose


def random_idea(task: Task, working: str, present: str, rng: random.Random, fits: Callable[[str], bool]) -> str:
    """One of all ideas for a script, each as likely, whatever came of earlier ones.

    working: the script as it last ran; present: as it is now; fits: whether a text is short enough.
    """
    try:
        script = Script(working, task)
    except Unreadable:
        return edits.inspect(task, "read the script again")
    for idea in rng.sample(found := operators.ideas(script), len(found)):
        change = operators.change(idea, script, rng)
        if change and fits(action := edits.change(task, change.thought, present, change.text)):
            return action
    return edits.inspect(task, "read the script again")
