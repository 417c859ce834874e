"""States as token ids: prompts and responses in the chat template of the model.

Invariants: what fine-tuning learns from and what the engine samples have the same ids for the same text; no text of a
message, such as what a script printed, becomes a special token, so that none can end a turn or begin another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from envs import prompt
from envs.records import State, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Chat:
    """The tokenizer of one model, and how many tokens a prompt may have."""

    def __init__(self, model_dir: str, context: int, response: int):
        """context: tokens of prompt and response together; response: most tokens of a response."""
        from transformers import AutoTokenizer  # seconds, in every process that only hands actors out

        self._tokenizer = AutoTokenizer.from_pretrained(model_dir)
        special = [added.content for added in self._tokenizer.added_tokens_decoder.values()]
        self._special = sorted((token for token in special if len(token) > 1), key=len, reverse=True)
        frame = self._render([{"role": "system", "content": ""}, {"role": "user", "content": ""}])
        self._budget = context - response - len(frame)
        self.end_token = end_of_turn(self._tokenizer)

    def prompt(self, task: Task, state: State, files: dict[str, str]) -> np.ndarray:
        """int32 [P] that asks for the next action.

        Raises:
            PromptError: the script alone is over the budget.
        """
        messages = prompt.messages(task, state, files, lambda text: len(self._encode(self._plain(text))), self._budget)
        return np.array(self._render(messages), dtype=np.int32)

    def question(self, text: str) -> np.ndarray:
        """int32 [P] that asks `text` of the model outside an episode; where it is too long, its middle is left out."""
        ids = self._encode(self._plain(text))
        if len(ids) > self._budget:
            half = self._budget // 2
            text = f"{self._tokenizer.decode(ids[: half - 1])}…{self._tokenizer.decode(ids[1 - half :])}"
        turns = [{"role": "system", "content": ""}, {"role": "user", "content": text}]
        return np.array(self._render(turns), dtype=np.int32)

    def conversation(self, messages: Sequence[Mapping[str, str]]) -> np.ndarray:
        """int32 [P] of chat messages (`role`, `content`), asking for the next one; nothing is left out."""
        return np.array(self._render(messages), dtype=np.int32)

    def response(self, text: str) -> np.ndarray:
        """int32 [R] of an answer, the end token included."""
        return np.array([*self._encode(text), self.end_token], dtype=np.int32)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def _plain(self, text: str) -> str:
        """The text with what would be special tokens broken up."""
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _render(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        messages = [{**message, "content": self._plain(message["content"])} for message in messages]
        return self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The special token that the chat template writes after an answer, else the tokenizer's end-of-sequence token.

    They differ in base models: Qwen2.5-7B ends text with `<|endoftext|>` and turns with `<|im_end|>`.
    """
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    after = tokenizer.apply_chat_template(turns, tokenize=False).rpartition("answer")[2]
    following = tokenizer(after, add_special_tokens=False)["input_ids"]
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return following[0] if following and following[0] in special else tokenizer.eos_token_id
