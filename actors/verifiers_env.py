"""Our tasks, sandboxes and reward as an environment of verifiers (https://github.com/PrimeIntellect-ai/verifiers, 0.4).

A module on the path that exports both classes is a taskset there (docs/extend.md); verifiers and what trains on its
environments then speak to the model, and this tells it of a state, carries its action out and rewards it. Invariants:
an infrastructure failure is an error of the episode, which is run again, and never a reward; what is withheld reaches
no prompt; the sandboxes live as long as the environment serves.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import replace

import verifiers.v1 as vf

from envs.admission import node_capacity
from envs.benchmarks.loader import load
from envs.environment import Environment
from envs.errors import TaskError
from envs.experiments import SandboxRunner
from envs.prompt import Extent, messages
from envs.records import Outcome, State, Task
from envs.sandbox import SandboxPool
from envs.workspace import SnapshotStore
from reward import Terms, reward, shared

CHARACTERS_PER_TOKEN = 3
"""A low guess, since the tokenizer is elsewhere."""
FINAL = "final answer"


class Row(vf.TaskData):
    """One task: its name, and what its unchanged script scores."""

    task: str
    start: float


class TaskOfOurs(vf.Task[Row, vf.State, vf.TaskConfig]):
    """Rewarded by the environment, since experiments are run there."""

    @property
    def key(self) -> str:
        return self.data.task


class TasksConfig(vf.TasksetConfig):
    """Which tasks there are."""

    tasks: list[str]
    """As `tasks.held_in` names them."""
    sandbox: str = "auto"
    """`docker`, `gvisor`, `process`, or the strongest that works."""
    prompt_tokens: int = 6000
    """About how long a prompt may be."""


class Tasks(vf.Taskset[TaskOfOurs, TasksConfig]):
    """The tasks, each with the prompt of its unchanged script, which is run for it."""

    def load(self) -> Iterator[TaskOfOurs]:
        environment = _environment(self.config.sandbox)
        try:
            for name in self.config.tasks:
                task = load(name)
                environment.tasks[task.id] = task
                start = environment.baseline(task.id)
                if start.score_after is None:
                    raise TaskError(f"task {task.id}: its unchanged script got no score: {start.log_tail}")
                environment.tasks[task.id] = task = replace(task, m_init=start.score_after)
                system, asked = _prompt(environment, environment.initial_state(task.id), self.config.prompt_tokens)
                row = Row(name=task.id, task=name, start=start.score_after, prompt=asked, system_prompt=system)
                yield TaskOfOurs(row, self.config.task)
        finally:
            environment.close()


class EpisodesConfig(vf.EnvConfig):
    """How tasks are played."""

    policy: vf.AgentConfig = vf.AgentConfig(harness={"id": "null"}, runtime=vf.SubprocessConfig())
    """The model that acts: by what it says, so that it needs neither tools nor a box."""
    actions: int = 1
    """Of an episode."""
    version: str = "v1"
    """Of the reward (`reward.version`); an episode is worth the mean of its actions' rewards."""


class Episodes(vf.Env[EpisodesConfig]):
    """Plays a task: state, action, experiment, reward, and the next state."""

    async def start(self) -> None:
        self._played = await asyncio.to_thread(_environment, self.taskset.config.sandbox)

    async def stop(self) -> None:
        if played := getattr(self, "_played", None):
            await asyncio.to_thread(played.close)

    async def run(self, task: TaskOfOurs, agents: vf.Agents) -> None:
        played, terms, own = self._played, Terms(self.config.version), await asyncio.to_thread(self._known, task.data)
        state, rewards = played.initial_state(own.id), []
        async with agents.policy.interaction(task) as interaction:
            segment = await interaction.turn()  # the task's prompt is of this state
            while not segment.terminated:
                result = await asyncio.to_thread(played.step, state, segment.last_reply)
                if result.outcome is Outcome.INFRA_FAILURE:
                    raise vf.SandboxError(result.log_tail)
                rewards.append(reward(result, own, terms).value)
                state = result.state
                if len(rewards) == self.config.actions or result.action == FINAL:
                    break
                _, asked = _prompt(played, state, self.taskset.config.prompt_tokens)
                segment = await interaction.turn(asked)
        trace = interaction.trace
        trace.record_reward("reward", shared(rewards))
        trace.record_metric("actions", len(rewards))
        trace.record_metric("best_score", math.nan if state.best is None else state.best)

    def _known(self, row: Row) -> Task:
        """The row's task, which the environment knows from then on."""
        task = replace(load(row.task), m_init=row.start)
        self._played.tasks[task.id] = task
        return task


def _environment(sandbox: str) -> Environment:
    """Of no task yet; its states are kept in memory.

    Raises:
        SandboxFailure: that sandbox does not work here.
    """
    snapshots = SnapshotStore("memory://verifiers")
    return Environment({}, SandboxRunner(SandboxPool(sandbox), node_capacity(), snapshots=snapshots), snapshots)


def _prompt(environment: Environment, state: State, tokens: int) -> tuple[str, str]:
    """What the system and the user say of a state."""
    task, files = environment.tasks[state.task_id], environment.files(state)
    said = messages(task, state, files, lambda text: len(text) // CHARACTERS_PER_TOKEN, tokens, Extent(whole=True))
    system, user = (one["content"] for one in said)
    return system, user
