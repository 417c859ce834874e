"""A reward of the written text, for runs with a random model: it writes no action, and yet its rewards vary."""

from __future__ import annotations

from collections.abc import Mapping

from envs.records import StepResult, Task
from reward import Terms


def letters(result: StepResult, task: Task, terms: Terms) -> Mapping[str, float]:
    """The share of letters in it."""
    text = result.state.history[-1].action if result.state.history else ""
    return {"letters": sum(character.isalpha() for character in text) / max(1, len(text))}
