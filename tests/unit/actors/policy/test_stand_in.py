"""A model behind an endpoint in the place of the policy: what evaluation and `solve` send to a local server."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from actors.agents import ENDPOINT, Agent, Agents
from actors.policy.endpoint import Endpoint, EndpointError
from actors.policy.stand_in import propose, tokens
from actors.solve import read_settings
from actors.solving.agents import EndpointAgent
from envs import prompt
from envs.records import State, Step
from learner.config.defaults import settle_prompt
from learner.config.load import load
from tests.openai_server import serving
from tests.unit.actors.expert.test_expert import script_of, task_of

ACTION = "Thought: look\nAction: Inspect\n"
STATE = State("s", "wine", "0", (Step("Thought: a forest", "accuracy = 0.6"),), 0.5, 0.5)
FILES = {"train.py": script_of("wine")}
KWARGS = {"enable_thinking": False}


def test_evaluation_and_solve_ask_what_training_asks_of_the_policy():
    wine = task_of("wine")
    with serving() as server:
        server.answers = [ACTION, f"<think>\nAction: Undo, or\n</think>\n\n{ACTION}"]
        set_arguments = "template_arguments.enable_thinking=false"
        cfg = load([f"experts.{set_arguments}", "experts.context=4000", "experts.response=500", "rl.temperature=0.5"])
        agents = Agents("actor-0", cfg, [wine], "", "", 0)
        evaluated = agents._asked(Agent("a", ENDPOINT, "m", server.url), wine, STATE, FILES, 7)
        model = ("model.context=4000", "model.response=500", "model.temperature=0.5", f"model.{set_arguments}")
        settings = read_settings([f"model.endpoint={server.url}", "model.path=m", *model])
        settle_prompt(settings.prompt, settings.model.context)
        agent = EndpointAgent(settings, SimpleNamespace(files=lambda state: FILES))
        solved = asyncio.run(agent.propose(wine, STATE, 7))
    assert server.asked[0] == server.asked[1]
    assert server.asked[0]["messages"] == prompt.messages(wine, STATE, FILES, tokens, 3500)
    assert server.asked[0]["chat_template_kwargs"] == KWARGS
    assert evaluated.text == solved.text == ACTION


def test_without_arguments_an_endpoint_is_sent_none():
    with serving() as server:
        server.answers = [ACTION]
        Endpoint(server.url, "m", "NO_KEY", 1.0, 9)([{"role": "user", "content": "?"}], 0)
    assert "chat_template_kwargs" not in server.asked[0]


def test_a_server_without_a_system_role_is_told_all_in_the_users_turn():
    wine = task_of("wine")
    with serving() as server:
        ask = Endpoint(server.url, "m", "NO_KEY", 1.0, 9)
        server.answers, server.reason = [400, ACTION, ACTION], "System role not supported"
        for seed in (1, 2):
            propose(ask, wine, STATE, FILES, 3500, seed)
        roles = [[message["role"] for message in asked["messages"]] for asked in server.asked]
        assert roles == [["system", "user"], ["user"], ["user"]], "it is tried once"
        assert server.asked[2]["messages"][0]["content"].startswith(f"{prompt.SYSTEM}\n\n{wine.problem}")
        server.answers, server.reason = [400], "the prompt is too long"
        with pytest.raises(EndpointError, match="too long"):
            propose(Endpoint(server.url, "m", "NO_KEY", 1.0, 9), wine, STATE, FILES, 3500, 1)
