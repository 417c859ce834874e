"""The editor: another model that carries out actions such as MLAgentBench's "Edit Script (AI)".

Any OpenAI-compatible endpoint serves. Invariant: an endpoint that fails is a failure of the infrastructure, never of
the action.
"""

from __future__ import annotations

import os

from envs import thinking
from envs.sandbox import SandboxFailure

DEADLINE = 120.0
"""Seconds for one answer, tries included."""


class EndpointEditor:
    """Asks a model behind an endpoint; thread-safe."""

    def __init__(self, endpoint: str, model: str, key_variable: str = "OPENAI_API_KEY", tokens: int = 4000):
        """key_variable: environment variable that holds the endpoint's key; tokens: most tokens of one answer."""
        import openai  # a second, which only who has an editor should wait

        key = os.environ.get(key_variable, "none")  # many endpoints of one's own want no key
        self._client = openai.OpenAI(base_url=endpoint, api_key=key, timeout=DEADLINE / 3, max_retries=2)
        self._endpoint, self._model, self._tokens = endpoint, model, tokens

    def __call__(self, prompt: str) -> str:
        """The model's answer.

        Raises:
            SandboxFailure: the endpoint does not answer, or refuses; the message names it.
        """
        from openai import OpenAIError

        try:
            answer = self._client.chat.completions.create(
                model=self._model, messages=[{"role": "user", "content": prompt}], max_tokens=self._tokens
            )
        except OpenAIError as error:
            raise SandboxFailure(f"the editor {self._model} at {self._endpoint} failed: {error}") from error
        return thinking.said(answer.choices[0].message.content or "")
