"""Who proposes in `actors/solve.py`: a checkpoint that is served here, or a model behind an endpoint."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from actors.policy import stand_in
from actors.policy.chat import Chat, plain
from actors.policy.endpoint import Endpoint, Reply
from actors.solving.background import beside
from actors.solving.settings import Settings
from envs.environment import Environment
from envs.prompt import Extent
from envs.records import State, Task


class EndpointAgent:
    """A model behind an OpenAI-compatible endpoint, asked as the policy is."""

    def __init__(self, settings: Settings, environment: Environment):
        model = settings.model
        self.prompted = ""
        """The last prompt, for people to read."""
        self._endpoint = Endpoint(
            model.endpoint, model.path, model.key_variable, model.temperature, model.response,
            plain(model.template_arguments),
        )  # fmt: skip
        self._budget, self._environment = model.context - model.response, environment
        self._extent = Extent.of(settings.prompt)

    def _ask(self, messages: Sequence[Mapping[str, str]], seed: int) -> Reply:
        self.prompted = "\n\n".join(f"[{one['role']}]\n{one['content']}" for one in messages)
        return self._endpoint(messages, seed)

    async def start(self) -> None:
        pass

    async def propose(self, task: Task, state: State, seed: int) -> Reply:
        """Raises EndpointError, PromptError."""
        files = self._environment.files(state)
        return await beside(stand_in.propose, self._ask, task, state, files, self._budget, seed, self._extent)

    def close(self) -> None:
        pass


class PolicyAgent:
    """A checkpoint or hub model, served by vLLM and asked as in training."""

    def __init__(self, settings: Settings, steps: int, model_dir: Path, environment: Environment, log: Path):
        """steps: actions at most; log: file for what the engine's processes say."""
        from actors.policy.policy import Policy  # it imports vLLM, which a model behind an endpoint does not need

        model = settings.model
        self.prompted = ""
        """The last prompt, for people to read."""
        self._model, self._environment = model, environment
        self._chat = Chat(
            str(model_dir), model.context, model.response, list(model.thinking), plain(model.template_arguments),
            Extent.of(settings.prompt),
        )  # fmt: skip
        self._policy, self._log = Policy("solve", str(model_dir), engine_settings(settings, steps), 0), log

    async def start(self) -> None:
        """Raises PolicyError."""
        with _said_to(self._log):
            await self._policy.start()

    async def propose(self, task: Task, state: State, seed: int) -> Reply:
        """Raises PolicyDead, PromptError."""
        ids, model = self._chat.prompt(task, state, self._environment.files(state)), self._model
        self.prompted = self._chat.shown(ids)
        sample = await self._policy.sample(ids, seed, model.temperature, model.response, self._chat.end_token)
        said = self._chat.said(sample.response_ids, sample.text)
        return Reply(said, len(ids), len(sample.response_ids), sample.truncated)

    def close(self) -> None:
        self._policy.close()


def engine_settings(settings: Settings, steps: int) -> Any:
    """What an engine reads of a configuration. It is on a card by itself, and compiled where that pays for so many
    actions."""
    return SimpleNamespace(
        run=SimpleNamespace(name="solve"), model=settings.model, rl=SimpleNamespace(steps=steps),
        actors=SimpleNamespace(**dict(settings.actors.items()), threads=0, sequences=1, colocate=False),
    )  # fmt: skip


@contextlib.contextmanager
def _said_to(file: Path) -> Iterator[None]:
    """What this process says meanwhile, and what those that it starts ever say, goes to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with file.open("ab") as opened:
        os.dup2(opened.fileno(), 1)
        os.dup2(opened.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in enumerate(kept, 1):
            os.dup2(copy, number)
            os.close(copy)
