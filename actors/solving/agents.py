"""Who proposes in `actors/solve.py`: a checkpoint that is served here, or a model behind an endpoint."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from actors.policy import stand_in
from actors.policy.chat import Chat, plain
from actors.policy.endpoint import Endpoint, Reply
from envs.environment import Environment
from envs.records import State, Task

CHECKPOINTS = "runs/*/checkpoints/step_*/hf"


class EndpointAgent:
    """A model behind an OpenAI-compatible endpoint, asked as the policy is."""

    def __init__(self, model: Any, environment: Environment):
        self._ask = Endpoint(
            model.endpoint, model.path, model.key_variable, model.temperature, model.response,
            plain(model.template_arguments),
        )  # fmt: skip
        self._budget, self._environment = model.context - model.response, environment

    async def start(self) -> None:
        pass

    async def propose(self, task: Task, state: State, seed: int) -> Reply:
        """Raises EndpointError, PromptError."""
        files = self._environment.files(state)
        return await asyncio.to_thread(stand_in.propose, self._ask, task, state, files, self._budget, seed)

    def close(self) -> None:
        pass


class PolicyAgent:
    """A checkpoint or hub model, served by vLLM and asked as in training."""

    def __init__(self, settings: Any, model_dir: Path, environment: Environment):
        from actors.policy.policy import Policy  # it imports vLLM, which a model behind an endpoint does not need

        model = settings.model
        self._model, self._environment = model, environment
        self._chat = Chat(
            str(model_dir), model.context, model.response, list(model.thinking), plain(model.template_arguments)
        )
        self._policy = Policy("solve", str(model_dir), settings, 0)

    async def start(self) -> None:
        """Raises PolicyError."""
        await self._policy.start()

    async def propose(self, task: Task, state: State, seed: int) -> Reply:
        """Raises PolicyDead, PromptError."""
        ids, model = self._chat.prompt(task, state, self._environment.files(state)), self._model
        sample = await self._policy.sample(ids, seed, model.temperature, model.response, self._chat.end_token)
        said = self._chat.said(sample.response_ids, sample.text)
        return Reply(said, len(ids), len(sample.response_ids), sample.truncated)

    def close(self) -> None:
        self._policy.close()


def newest_checkpoint() -> Path | None:
    """Of the runs in this folder."""
    return max(Path().glob(CHECKPOINTS), key=lambda folder: folder.stat().st_mtime, default=None)
