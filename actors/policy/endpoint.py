"""A language model behind an OpenAI-compatible endpoint, asked for one answer at a time; thread-safe.

Invariants: what fails for a while (no connection, too many requests, an overloaded server) is tried again with growing
pauses; the key comes from an environment variable and stands in no message.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envs.errors import UserError
from envs.prompt import folded

TRIES = 6
"""Of one question; the pauses between them grow to eight seconds."""
SECONDS = 120.0
"""For one try."""


class EndpointError(UserError):
    """An endpoint that does not answer or refuses; the message names it and what to check."""


@dataclass(frozen=True)
class Reply:
    """An answer, with the tokens that the endpoint counted for it (0 where it does not say)."""

    text: str
    prompt_tokens: int = 0
    response_tokens: int = 0
    truncated: bool = False
    """It ended at its limit of tokens."""


Ask = Callable[[Sequence[Mapping[str, str]], int], Reply]
"""(chat messages, seed) → the answer."""


class Endpoint:
    """An `Ask`."""

    def __init__(
        self,
        url: str,
        model: str,
        key_variable: str,
        temperature: float,
        tokens: int,
        template_arguments: Mapping[str, Any] | None = None,
    ):
        """key_variable: environment variable that holds the key, if one is wanted; tokens: most of an answer;
        template_arguments: of the chat template, for servers that have one (vLLM, SGLang); others refuse them."""
        import openai  # a second, which only who asks an endpoint should wait

        self._key = os.environ.get(key_variable, "")
        self._client = openai.OpenAI(
            base_url=url, api_key=self._key or "none", timeout=SECONDS, max_retries=TRIES - 1
        )  # fmt: skip
        self._url, self._model, self._key_variable = url, model, key_variable
        self._temperature, self._tokens = temperature, tokens
        self._extra = {"chat_template_kwargs": dict(template_arguments)} if template_arguments else None
        self._folds = False
        """The model's template has no place for what a system says."""

    def __call__(self, messages: Sequence[Mapping[str, str]], seed: int) -> Reply:
        """Raises EndpointError."""
        from openai import BadRequestError, OpenAIError

        try:
            try:
                answer = self._complete(messages, seed)
            except BadRequestError as error:
                if self._folds or "role" not in str(error).lower():
                    raise
                self._folds = True
                answer = self._complete(messages, seed)
            used = answer.usage
            counted = (used.prompt_tokens, used.completion_tokens) if used else (0, 0)
            choice = answer.choices[0]
            truncated = getattr(choice, "finish_reason", None) == "length"
            return Reply(choice.message.content or "", *counted, truncated)
        except OpenAIError as error:
            raise EndpointError(self._message(error)) from None  # the cause may quote the key
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise EndpointError(self._message("its answer is not that of a chat completion")) from error

    def _complete(self, messages: Sequence[Mapping[str, str]], seed: int) -> Any:
        return self._client.chat.completions.create(
            model=self._model, messages=folded(messages) if self._folds else list(messages),
            temperature=self._temperature, max_tokens=self._tokens, seed=seed, extra_body=self._extra,
        )  # fmt: skip

    def _message(self, reason: object) -> str:
        text = str(reason)[:500]
        if self._key:
            text = text.replace(self._key, "***")
        return f"the model {self._model} at {self._url} (key in {self._key_variable}) failed: {text}"
