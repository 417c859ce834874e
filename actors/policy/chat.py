"""States as token ids: prompts and responses in the chat template of the model.

Invariants: what fine-tuning learns from and what the engine samples have the same ids for the same text; no text of a
message, such as what a script printed, becomes a special token, so that none can end a turn or begin another; a
template that cannot serve is refused when it is read, not at the first prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from envs import prompt, thinking
from envs.errors import UserError
from envs.prompt import BRIEF, Extent
from envs.records import State, Task

Messages = Sequence[Mapping[str, str]]
"""Of `role` and `content`."""
SAMPLES = ("Sample of what a system says.", "Sample of what a user asks.")


class TemplateError(UserError):
    """A chat template that cannot serve; the message names the model and why."""


class Chat:
    """The tokenizer of one model, and how many tokens a prompt may have."""

    def __init__(
        self,
        model_dir: str,
        context: int,
        response: int,
        marks: Sequence[str] = (),
        arguments: Mapping[str, Any] | None = None,
        extent: Extent = BRIEF,
    ):
        """context: tokens of prompt and response together; response: most tokens of a response; marks: what begins the
        model's thinking and what ends it, by default those that its template names; arguments: of the template; extent:
        how much prompts show where it fits.

        Raises:
            TemplateError: the template cannot render such prompts.
        """
        from transformers import AutoTokenizer  # seconds, in every process that only hands actors out

        self._model_dir, self._arguments, self._extent = model_dir, dict(arguments or {}), extent
        self._tokenizer = AutoTokenizer.from_pretrained(model_dir)
        special = [added.content for added in self._tokenizer.added_tokens_decoder.values()]
        self._special = sorted((token for token in special if len(token) > 1), key=len, reverse=True)
        self._folds = self._folds_system()
        frame = len(self._render(_turns("x", "x"))) - 2 * len(self._encode("x"))  # empty contents may be left out
        self._budget = context - response - frame
        self.end_token = self._end_token()
        template = self._tokenizer.get_chat_template()
        self._marks = (marks[0], marks[1]) if marks else thinking.known_in(template)
        asked = self._text(_turns(*SAMPLES)).rpartition(SAMPLES[1])[2]
        self._opened = bool(self._marks and thinking.is_open(asked, self._marks))

    def prompt(self, task: Task, state: State, files: dict[str, str]) -> np.ndarray:
        """int32 [P] that asks for the next action.

        Raises:
            PromptError: the instructions and a few lines of the script are over the budget.
        """

        def count(text: str) -> int:
            return len(self._encode(self._plain(text)))

        messages = prompt.messages(task, state, files, count, self._budget, self._extent)
        return np.array(self._render(messages), dtype=np.int32)

    def shown(self, ids: np.ndarray) -> str:
        """A prompt as the model gets it, the template's own tokens included, for people to read."""
        return self._tokenizer.decode(ids)

    def question(self, text: str) -> np.ndarray:
        """int32 [P] that asks `text` of the model outside an episode; where it is too long, its middle is left out."""
        ids = self._encode(self._plain(text))
        if len(ids) > self._budget:
            half = self._budget // 2
            text = f"{self._tokenizer.decode(ids[: half - 1])}…{self._tokenizer.decode(ids[1 - half :])}"
        return np.array(self._render(_turns("", text)), dtype=np.int32)

    def conversation(self, messages: Messages) -> np.ndarray:
        """int32 [P] of chat messages, asking for the next one; nothing is left out.

        Raises:
            TemplateError: the template does not take these turns.
        """
        return np.array(self._render(messages), dtype=np.int32)

    def response(self, text: str) -> np.ndarray:
        """int32 [R] of an answer without thinking, the end token included."""
        closed = f"{self._marks[1]}\n\n{text}" if self._opened else text
        return np.array([*self._encode(closed), self.end_token], dtype=np.int32)

    def said(self, response_ids: np.ndarray, text: str) -> str:
        """What a response says after its thinking; text: the response, without special tokens."""
        if not self._marks:
            return text
        begin, end = (self._token(mark) for mark in self._marks)
        if end is None:
            return thinking.said(text, [self._marks], self._opened)
        if (ends := np.flatnonzero(response_ids == end)).size:
            return self._tokenizer.decode(response_ids[ends[-1] + 1 :], skip_special_tokens=True).lstrip()
        return "" if self._opened or (begin is not None and begin in response_ids[:1]) else text

    def _token(self, mark: str) -> int | None:
        """The one token that a mark is; None where it is several."""
        ids = self._encode(mark)
        return ids[0] if len(ids) == 1 else None

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def _plain(self, text: str) -> str:
        """The text with what would be special tokens broken up."""
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _render(self, messages: Messages) -> list[int]:
        return self._encode(self._text(messages))

    def _text(self, messages: Messages) -> str:
        plain = [{**message, "content": self._plain(message["content"])} for message in messages]
        return self._rendered(prompt.folded(plain) if self._folds else plain, add_generation_prompt=True)

    def _rendered(self, messages: Messages, **options: Any) -> str:
        """Raises TemplateError, whatever the template raises."""
        try:
            return self._tokenizer.apply_chat_template(list(messages), tokenize=False, **options, **self._arguments)
        except Exception as error:
            reason = str(error).strip() or type(error).__name__
            raise TemplateError(f"the chat template of {self._model_dir} cannot be used: {reason}") from error

    def _folds_system(self) -> bool:
        """Whether what the system says has to stand in the first user's turn, since the template has no place for it.

        Raises:
            TemplateError: it has no place for what a user says either.
        """
        try:
            if all(sample in self._rendered(_turns(*SAMPLES), add_generation_prompt=True) for sample in SAMPLES):
                return False
        except TemplateError:
            pass
        alone = self._rendered(_turns("", SAMPLES[1])[1:], add_generation_prompt=True)
        if SAMPLES[1] not in alone:
            raise TemplateError(f"the chat template of {self._model_dir} leaves out what the user says")
        return True

    def _end_token(self) -> int:
        """The special token that the template writes after an answer, else the tokenizer's end-of-sequence token.

        They differ in base models: Qwen2.5-7B ends text with `<|endoftext|>` and turns with `<|im_end|>`.
        """
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
        following = self._encode(self._rendered(turns).rpartition("answer")[2])
        special = {token for token, added in self._tokenizer.added_tokens_decoder.items() if added.special}
        end = following[0] if following and following[0] in special else self._tokenizer.eos_token_id
        if end is None:
            raise TemplateError(
                f"the chat template of {self._model_dir} ends no answer with a special token, and its tokenizer has no "
                "eos_token: nothing would end a response"
            )
        return end


def plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a template, from a configuration."""
    return OmegaConf.to_container(arguments) if OmegaConf.is_config(arguments) else dict(arguments)


def _turns(system: str, user: str) -> list[Mapping[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]
