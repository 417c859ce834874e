"""An expert that is a language model: told the task, the state and some ideas, it writes the next action.

Invariants: what it answers is untrusted text, an action like any of the policy's; its answer is what the policy learns
from, so what is around the action is taken off.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from actors.expert import ideas as idea_pool
from actors.expert.operators import Idea
from actors.policy.endpoint import Ask, EndpointError, Reply
from actors.policy.stand_in import tokens
from envs import prompt, thinking
from envs.records import State, Task

SYSTEM = (
    "You are an expert machine-learning engineer. You improve a script's score step by step: each action that you "
    "write is applied, run and scored. Answer with exactly one thought and one action in the form that is asked for, "
    "nothing else. Change as few lines as you can."
)
BRAINSTORM = (
    "{problem}\nMetric: {metric}.\n{script_name}:\n```\n{script}```\nList {count} ideas that differ as much as "
    "possible and could improve this score: models, hyper-parameters, preprocessing, features, encodings, missing "
    "values, ensembles, training. One idea a line, at most 15 words each, nothing else."
)
AT_ONCE = 25
"""Ideas asked for in one question."""
MAX_IDEA = 200
"""Characters of an idea."""
START = re.compile(r"^[ \t]*(Thought|Action):", re.MULTILINE)
BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])?\s*")


class LanguageModelExpert:
    """An `actors.expert.builtin.Expert`; thread-safe as far as `ask` is."""

    def __init__(self, ask: Ask, name: str, budget: int, extent: prompt.Extent = prompt.BRIEF):
        """budget: most tokens of a question; extent: how much it shows where it fits."""
        self.name = name
        self._ask, self._budget, self._extent = ask, budget, extent

    def candidates(self, task: Task, least: int) -> list[Idea]:
        """Distinct ideas for the task's unchanged script; those of the built-in library where the model repeats itself.

        Raises:
            EndpointError: the model failed, or gave no idea.
        """
        script = (task.env_dir / task.script).read_text()
        question = BRAINSTORM.format(
            problem=task.problem, metric=task.metric, script_name=task.script, script=script, count=AT_ONCE
        )
        found: dict[str, Idea] = {}
        for seed in range(2 * -(-least // AT_ONCE)):
            answer = thinking.said(self._ask([{"role": "user", "content": question}], seed).text)
            for line in answer.splitlines():
                text = BULLET.sub("", line, count=1).strip()[:MAX_IDEA]
                if len(text.split()) > 1:
                    found.setdefault(text.casefold(), Idea("llm", "", text))
            if len(found) >= least:
                break
        if not found:
            raise EndpointError(f"the model {self.name} gave no idea for task {task.id}: choose another experts.model")
        return [*found.values(), *_of_the_library(task, least - len(found))]

    def propose(
        self, task: Task, state: State, files: dict[str, str], working: str | None, ideas: Sequence[Idea],
        rng: random.Random,
    ) -> Reply:  # fmt: skip
        """The next action; arguments as for the built-in expert. Raises EndpointError, PromptError."""
        hint = "".join(f"\n- {idea.text}" for idea in ideas)
        hint = f"\nIdeas worth trying, one at a time:{hint}" if ideas else ""
        budget = self._budget - tokens(SYSTEM + hint)
        _, question = prompt.messages(task, state, files, tokens, budget, self._extent)
        asked = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question["content"] + hint}]
        reply = self._ask(asked, rng.randrange(1 << 31))
        return replace(reply, text=tidy(thinking.said(reply.text)))


def tidy(answer: str) -> str:
    """The answer from its thought or action on, without a fence around it."""
    start = START.search(answer)
    text = answer[start.start() :] if start else answer
    lines = text.strip().splitlines()
    if lines and lines[-1].strip() == "```" and sum(line.lstrip().startswith("```") for line in lines) % 2:
        lines.pop()
    return "\n".join(lines) + "\n"


def _of_the_library(task: Task, wanted: int) -> list[Idea]:
    """Up to `wanted` ideas of the built-in expert, in a fixed random order; none for a script that does not parse."""
    try:
        known = idea_pool.candidates(task, wanted)
    except idea_pool.IdeaError:
        return []
    return random.Random(0).sample(known, max(0, min(wanted, len(known))))
