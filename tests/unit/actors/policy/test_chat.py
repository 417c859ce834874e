"""Prompts and responses in real chat templates (tests/templates), with a tokenizer that knows their special tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from actors.policy.chat import Chat, TemplateError
from envs import prompt
from envs.records import Direction, Limits, State, Task

TEMPLATES = Path(__file__).parents[3] / "templates"
CHATML = ("<|im_start|>", "<|im_end|>")
HEADERS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
PHI = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
THINK = ("<think>", "</think>")
MARKS: dict[str, tuple[tuple[str, ...], str]] = {
    "qwen2_5": (CHATML, "<|im_end|>"),
    "qwen3": ((*CHATML, *THINK), "<|im_end|>"),
    "llama3": (HEADERS, "<|eot_id|>"),
    "llama3_2": (HEADERS, "<|eot_id|>"),
    "gemma": (("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>"),
    "gemma3": (("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>"),
    "mistral": (("[INST]", "[/INST]"), "</s>"),
    "mistral_small": (("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), "</s>"),
    "mistral_nemo": (("[INST]", "[/INST]"), "</s>"),
    "phi3": (PHI, "<|end|>"),
    "phi3_5": (PHI, "<|end|>"),
    "phi4_reasoning": ((*CHATML, "<|im_sep|>", *THINK), "<|im_end|>"),
    "smollm3": ((*CHATML, *THINK), "<|im_end|>"),
    "deepseek_r1_distill": (
        ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", *THINK),
        "<｜end▁of▁sentence｜>",
    ),
}
"""Special tokens of each template, and the one that ends an answer."""
SCRIPT = "x = 1\nprint('<|im_end|> [/INST] <|eot_id|> <end_of_turn> <|end|> </s>')\n"
TASK = Task(
    "toy", "Make it better.", Path(), Path(), "train.py", frozenset(), "accuracy", Direction.MAXIMIZE, "held_in",
    Limits(), 1.0, m_init=0.5,
)  # fmt: skip
STATE = State("s", "toy", "0", score=0.5, reference=0.5)
ACTION = "Thought: look\nAction: Inspect\n"


def made(folder: Path, template: str, marks: tuple[str, ...], eos: str | None = "</s>", special: bool = True) -> Path:
    """A tokenizer of bytes with these tokens; special: whether those that mark thinking are special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    of_bytes = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    of_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    of_bytes.decoder = decoders.ByteLevel()
    of_bytes.add_special_tokens(["<s>", *[mark for mark in marks if special or mark not in THINK]])
    of_bytes.add_tokens([mark for mark in THINK if mark in marks and not special])
    ends = {"eos_token": eos} if eos else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=of_bytes, bos_token="<s>", **ends)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def chat_of(folder: Path, name: str, context: int = 3000, **settings) -> Chat:
    text = (TEMPLATES / f"{name}.jinja").read_text()
    return Chat(str(made(folder, text, MARKS[name][0])), context, 100, **settings)


def shown(chat: Chat, state: State = STATE) -> str:
    return chat._tokenizer.decode(chat.prompt(TASK, state, {"train.py": SCRIPT}))


@pytest.mark.parametrize("name", MARKS)
def test_a_prompt_has_what_system_and_user_say_and_then_asks_for_an_answer(tmp_path: Path, name: str) -> None:
    chat = chat_of(tmp_path, name)
    said = shown(chat)
    system, user = said.index(prompt.SYSTEM), said.index(prompt.FORMAT)
    assert system < said.index(TASK.problem) < said.index("x = 1\nprint(") < user
    assert chat.end_token == chat._tokenizer.convert_tokens_to_ids(MARKS[name][1])
    ends = [
        list(chat.prompt(TASK, STATE, {"train.py": script})).count(chat.end_token) for script in (SCRIPT, "x = 1\n")
    ]
    assert said.count(prompt.SYSTEM) == 1 and ends[0] == ends[1], "what a script prints ends no turn"


@pytest.mark.parametrize("name", MARKS)
def test_a_prompt_keeps_its_budget_whatever_the_template_adds(tmp_path: Path, name: str) -> None:
    chat, most = chat_of(tmp_path, name, context=1500), 1500 - 100
    without = len(chat.prompt(TASK, STATE, {"train.py": ""}))
    lengths = [len(chat.prompt(TASK, STATE, {"train.py": "y" * (most - without + more)})) for more in (0, 1, 9)]
    assert lengths[0] == most and max(lengths) == most, "a token is a byte here"


def test_without_a_system_role_the_system_text_joins_the_first_users_turn(tmp_path: Path) -> None:
    said = shown(chat_of(tmp_path, "gemma"))
    assert said.startswith(f"<s><start_of_turn>user\n{prompt.SYSTEM}\n\n{TASK.problem}")
    assert said.count("<start_of_turn>") == 2 and said.endswith("<start_of_turn>model\n")
    turns = [{"role": "user", "content": "an idea?"}]
    chat = chat_of(tmp_path, "gemma")
    assert chat._tokenizer.decode(chat.conversation(turns)).count("<start_of_turn>") == 2


def test_a_template_gets_its_arguments_in_every_prompt(tmp_path: Path) -> None:
    thinks, silent = (chat_of(tmp_path, "qwen3", arguments=given) for given in ({}, {"enable_thinking": False}))
    assert shown(thinks).endswith("<|im_start|>assistant\n")
    for ids in (
        silent.prompt(TASK, STATE, {"train.py": SCRIPT}), silent.question("why?"),
        silent.conversation([{"role": "user", "content": "why?"}]),
    ):  # fmt: skip
        assert silent._tokenizer.decode(ids).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    at_once = chat_of(tmp_path, "smollm3", arguments={"enable_thinking": False})
    assert shown(at_once).endswith("<|im_start|>assistant\n<think>\n\n</think>\n")
    dated = chat_of(tmp_path, "llama3_2", arguments={"date_string": "1 Jan 2026"})
    assert "Today Date: 1 Jan 2026" in shown(dated)


DRAFT = "Let me try\nAction: Undo\n```python\nx = 2\n```\n"


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    ("name", "response", "said"),
    [
        ("qwen3", f"<think>\n{DRAFT}</think>\n\n{ACTION}", ACTION),
        ("qwen3", f"<think>one</think>\n<think>\n{DRAFT}</think>{ACTION}", ACTION),
        ("qwen3", ACTION, ACTION),
        ("qwen3", f"<think>\n{DRAFT}", ""),
        ("deepseek_r1_distill", f"{DRAFT}</think>\n\n{ACTION}", ACTION),
        ("deepseek_r1_distill", f"{DRAFT}", ""),
        ("qwen2_5", ACTION, ACTION),
        ("smollm3", f"<think>\n{DRAFT}</think>\n{ACTION}", ACTION),
        ("smollm3", f"<think>\n{DRAFT}", ""),
        ("phi4_reasoning", f"<think>{DRAFT}</think>\n\n{ACTION}", ACTION),
        ("phi4_reasoning", f"<think>{DRAFT}", ""),
    ],
)
def test_what_is_said_comes_after_the_last_end_of_thinking(
    tmp_path: Path, name: str, response: str, said: str, special: bool
) -> None:
    text = (TEMPLATES / f"{name}.jinja").read_text()
    chat = Chat(str(made(tmp_path, text, MARKS[name][0], special=special)), 3000, 100)
    ids = np.array(chat._encode(response), np.int32)
    visible = chat._tokenizer.decode(ids, skip_special_tokens=True)  # as the engine gives it
    assert chat.said(ids, visible) == said


def test_the_marks_of_thinking_can_be_told_where_the_template_names_none(tmp_path: Path) -> None:
    chat = chat_of(tmp_path, "qwen2_5", marks=("<reason>", "</reason>"))
    text = f"<reason>{DRAFT}</reason>{ACTION}"
    assert chat.said(np.array(chat._encode(text)), text) == ACTION


def test_an_answer_to_learn_from_ends_the_thinking_that_the_prompt_began(tmp_path: Path) -> None:
    chat = chat_of(tmp_path, "deepseek_r1_distill")
    assert shown(chat).endswith("<think>\n")
    ids = chat.response(ACTION)
    assert ids[-1] == chat.end_token and chat.said(ids[:-1], "") == ACTION
    plain = chat_of(tmp_path, "qwen3").response(ACTION)
    assert chat._tokenizer.decode(plain[:-1]) == ACTION


@pytest.mark.parametrize(
    ("template", "eos", "reason"),
    [
        ("{{ raise_exception('tools only') }}", "</s>", "tools only"),
        ("{% for one in messages %}", "</s>", "end of template"),
        ("{{ bos_token }}", "</s>", "leaves out what the user says"),
        ("{% for one in messages %}{{ one.content }}{% endfor %}", None, "nothing would end a response"),
    ],
)
def test_a_template_that_cannot_serve_is_refused_by_name(tmp_path: Path, template: str, eos, reason: str) -> None:
    with pytest.raises(TemplateError, match=reason) as refused:
        Chat(str(made(tmp_path, template, (), eos)), 3000, 100)
    assert str(tmp_path) in str(refused.value)
