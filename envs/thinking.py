"""What a reasoning model says, apart from what it thinks first.

Invariants: what stands before the last end of thinking is never an action or an answer; thinking that has no end is
followed by nothing. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

Marks = tuple[str, str]
"""What begins a model's thinking, and what ends it."""
KNOWN: tuple[Marks, ...] = (
    ("<think>", "</think>"),  # Qwen 3, DeepSeek R1, SmolLM3, GLM, MiniMax, Nemotron, OLMo 3, …
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<|channel>", "<channel|>"),  # Gemma 4
)


def known_in(template: str) -> Marks | None:
    """The marks that a chat template names; None where it names none."""
    return next((marks for marks in KNOWN if marks[1] in template), None)


def is_open(text: str, marks: Marks) -> bool:
    """Whether thinking has begun in `text`, and not ended."""
    return text.rfind(marks[0]) > text.rfind(marks[1])


def said(text: str, marks: Sequence[Marks] = KNOWN, opened: bool = False) -> str:
    """`text` from the last end of thinking on; all of it where there is none, and nothing where thinking goes on.

    marks: of the model, or all that are known where its template is not; opened: the prompt began the thinking.
    """
    ends = [text.rfind(end) + len(end) for _, end in marks if end in text]
    if ends:
        return text[max(ends) :].lstrip()
    return "" if opened or text.lstrip().startswith(tuple(begin for begin, _ in marks)) else text
