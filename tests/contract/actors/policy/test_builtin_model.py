"""The built-in model, really converted: an ordinary checkpoint that talks."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.policy.model import BUILTIN, resolve


def test_the_builtin_model_answers():
    folder = resolve(BUILTIN)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert [tokenizer.decode(token) for token in tokenizer.encode("year =    2026")] == ["year", " =", "    ", *"2026"]
    question = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id
