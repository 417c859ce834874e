"""The expert that is a language model, against a local HTTP server that speaks the OpenAI protocol."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from actors.expert import ideas
from actors.expert.ideas import IdeaError
from actors.expert.llm import LanguageModelExpert, tidy
from actors.expert.operators import Idea
from actors.policy.endpoint import Endpoint, EndpointError
from envs.actions import Edit, parse
from envs.benchmarks.loader import load
from envs.changes import apply
from envs.records import State, Step
from tests.openai_server import Server, serving

EDIT = """Thought: a larger neighbourhood
Action: Edit
<<<<<<< SEARCH
model = KNeighborsRegressor()
=======
model = KNeighborsRegressor(n_neighbors=25)
>>>>>>> REPLACE
"""
SECRET = "sk-a-secret-of-the-user"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("EXPERT_KEY", SECRET)
    with serving() as server:
        yield server


@pytest.fixture
def expert(server: Server) -> LanguageModelExpert:
    ask = Endpoint(server.url, "a-model", "EXPERT_KEY", temperature=0.7, tokens=200)
    return LanguageModelExpert(ask, "a-model", budget=4000)


@pytest.fixture(scope="module")
def task():
    return replace(load("diabetes"), m_init=0.3)


def test_it_asks_about_the_state_with_the_ideas_and_answers_an_action(server, expert, task):
    script = (task.env_dir / "train.py").read_text()
    server.answers = [503, 429, f"Sure, here it is!\n{EDIT}\n"]
    broken = State("s", task.id, "0", (Step(EDIT, "script_error: NameError: no Ridge"),), None, 0.3)
    ideas = [Idea("llm", "", "scale the features"), Idea("llm", "", "a ridge regression")]
    reply = expert.propose(task, broken, {"train.py": script}, None, ideas, random.Random(0))
    action = parse(reply.text, task)
    assert isinstance(action, Edit) and "n_neighbors=25" in apply(action, {"train.py": script}, task)["train.py"]
    assert len(server.asked) == 3, "an overloaded server is asked again"
    asked, question = server.asked[-1], server.asked[-1]["messages"][1]["content"]
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("a-model", 0.7, 200)
    assert all(part in question for part in (script, "NameError: no Ridge", "scale the features", "ridge regression"))
    assert server.keys[-1] == f"Bearer {SECRET}"


@pytest.mark.parametrize(("reason", "truncated"), [("length", True), ("stop", False), (None, False)])
def test_it_is_known_whether_an_answer_was_cut_at_its_limit(server, expert, task, reason, truncated):
    server.answers, server.finish_reason = [EDIT], reason
    state = State("s", task.id, "0", score=0.3, reference=0.3)
    reply = expert.propose(task, state, {"train.py": "x = 1\n"}, None, [], random.Random(0))
    assert reply.truncated is truncated


def test_the_key_is_in_no_message_and_no_log(server, expert, task, caplog):
    caplog.set_level(logging.DEBUG)
    server.answers = [401]
    with pytest.raises(EndpointError) as failed:
        expert.propose(task, State("s", task.id, "0", score=0.3, reference=0.3), {"train.py": "x = 1\n"}, None, [],
                       random.Random(0))  # fmt: skip
    assert server.url in str(failed.value) and "EXPERT_KEY" in str(failed.value)
    assert SECRET not in str(failed.value) + caplog.text + repr(failed.value.__cause__)
    assert len(server.asked) == 1, "a refused key is not tried again"


def test_ideas_are_gathered_until_there_are_enough_different_ones(server, expert, task):
    server.answers = ["\n".join(f"{n}. use model number {n % 20}" for n in range(25)) + "\n\nDone"]
    server.answers += ["\n".join(f"- scale by {n}\n* bag {n} trees" for n in range(5))]
    found = expert.candidates(task, least=30)
    assert len({idea.text for idea in found}) == len(found) == 30
    assert "use model number 7" in {idea.text for idea in found} and "scale by 0" in {idea.text for idea in found}
    server.answers = ["- scale the features\n- try a forest"] * 4
    filled = expert.candidates(task, least=30)
    assert len({idea.text for idea in filled}) == 30 and {idea.operator for idea in filled[2:]} >= {"model", "average"}
    server.answers = ["no"] * 10
    with pytest.raises(EndpointError, match=r"a-model gave no idea for task diabetes"):
        expert.candidates(task, least=30)


def test_ideas_can_be_compared_by_an_endpoint(server):
    embed = ideas.embedding(server.url, "an-embedding", "EXPERT_KEY")
    assert np.allclose(embed(["a", "four"]), [[1, 1], [4, 1]])
    assert server.asked[-1]["model"] == "an-embedding" and server.keys[-1] == f"Bearer {SECRET}"
    with pytest.raises(IdeaError, match=r"experts\.embeddings=no/such-model"):
        ideas.embedding("no/such-model", "", "EXPERT_KEY")


def test_what_is_around_an_action_is_taken_off():
    assert tidy(f"```\n{EDIT}```") == EDIT
    write = "Action: Write\n```\nx = 1\n```\n"
    assert tidy(write) == write == tidy(f"Let me think.\n{write}")
    assert tidy("I cannot help") == "I cannot help\n"
