"""A model behind an endpoint in the policy's place: told what the policy is told, and read as the policy is.

Invariant: `learner/evaluate.py` and `actors/solve.py` ask such a model what training asks of the policy; only the
budget is counted in characters, since its tokenizer is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from actors.policy.endpoint import Ask, Reply
from envs import prompt, thinking
from envs.records import State, Task

CHARACTERS_PER_TOKEN = 3
"""Low for English and code, so that a prompt counted by it fits."""
SEEDS = 1 << 31
"""Endpoints take none that is larger."""


def propose(
    ask: Ask,
    task: Task,
    state: State,
    files: Mapping[str, str],
    budget: int,
    seed: int,
    extent: prompt.Extent = prompt.BRIEF,
) -> Reply:
    """The next action. budget: most tokens of the prompt; extent: how much it shows where it fits.

    Raises EndpointError, PromptError."""
    reply = ask(prompt.messages(task, state, files, tokens, budget, extent), seed % SEEDS)
    return replace(reply, text=thinking.said(reply.text))


def tokens(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)
