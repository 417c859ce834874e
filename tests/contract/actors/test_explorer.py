"""An actor without a policy, with a real sandbox: idea pools and trajectories of both experts."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from actors.expert.trajectory import Ending
from actors.explorer import Explorer
from envs.benchmarks.loader import load
from envs.records import Outcome
from envs.sandbox import SandboxFailure
from learner.config.defaults import settle
from learner.config.schema import Config
from tests.openai_server import serving

EDIT = """Thought: a linear model
Action: Edit
<<<<<<< SEARCH
model = KNeighborsRegressor()
=======
from sklearn.linear_model import Ridge
model = Ridge(alpha=0.1)
>>>>>>> REPLACE
"""
UNDO = "Thought: take it back\nAction: Undo\n"


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def cfg():
    cfg = Config()
    settle(cfg)
    cfg.sandbox.backend, cfg.sandbox.cpus, cfg.actors.sequences = "process", 1, 4
    cfg.experts.steps, cfg.experts.mistakes, cfg.experts.ideas = 4, 0.3, 6
    return cfg


@pytest.fixture(scope="module")
def explorer(runner, cfg, tiny_model, tmp_path_factory):
    tasks = [load("diabetes"), load("wine")]
    explorer = Explorer("actor-0", cfg, tasks, str(tiny_model), str(tmp_path_factory.mktemp("run")), version=0)
    try:
        runner.run(explorer.start())
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the process sandbox is not to be had: {reason}")
    found = runner.run(explorer.baselines())
    runner.run(explorer.set_baselines({name: result.score_after for name, result in found.items()}))
    yield explorer
    runner.run(explorer.close())


def test_the_builtin_expert_tries_its_ideas_errs_and_recovers(runner, explorer):
    candidates, pool = runner.run(explorer.ideas("wine", seed=0))
    assert candidates >= 100 and len(pool) == 6
    paths = [runner.run(explorer.explore("wine", number, pool)) for number in range(12)]
    outcomes = Counter(move.result.outcome for path in paths for move in path.moves)
    assert outcomes[Outcome.EDITED] > outcomes[Outcome.SCRIPT_ERROR] > 0 and outcomes[Outcome.INVALID] > 0
    assert Ending.IMPROVED in {path.ending for path in paths}
    broken = [
        (move, path.moves[i + 1])
        for path in paths
        for i, move in enumerate(path.moves[:-1])
        if move.result.outcome is Outcome.SCRIPT_ERROR
    ]
    assert any(after.result.state.score is not None for _, after in broken), "none was mended"
    again = runner.run(explorer.explore("wine", 3, pool))
    assert [move.text for move in again.moves] == [move.text for move in paths[3].moves]
    assert again.ideas == paths[3].ideas


def test_a_language_model_explores_and_its_endpoint_may_fail(runner, explorer, cfg, monkeypatch):
    with serving() as server:
        monkeypatch.setattr(cfg.experts, "kind", "llm")
        monkeypatch.setattr(cfg.experts, "endpoint", server.url)
        monkeypatch.setattr(cfg.experts, "model", "a-model")
        server.answers = ["\n".join(f"use {n} neighbours" for n in range(120))]
        candidates, pool = runner.run(explorer.ideas("diabetes", seed=0))
        assert candidates == 120 and len(pool) == 6
        server.answers = [EDIT, UNDO, "I cannot", 401]
        path = runner.run(explorer.explore("diabetes", 0, pool))
    outcomes = [move.result.outcome for move in path.moves]
    assert outcomes == [Outcome.EDITED, Outcome.NEUTRAL, Outcome.INVALID]
    assert path.expert == "a-model" and path.ending is Ending.IMPROVED and "at http://127.0.0.1" in path.failure
    question = server.asked[-2]["messages"][1]["content"]
    assert all(idea in question for idea in path.ideas)


def test_a_trajectory_ends_with_its_final_answer(runner, explorer, cfg, monkeypatch):
    with serving() as server:
        monkeypatch.setattr(cfg.experts, "kind", "llm")
        monkeypatch.setattr(cfg.experts, "endpoint", server.url)
        monkeypatch.setattr(cfg.experts, "model", "a-model")
        server.answers = [EDIT, "Thought: done\nAction: Final Answer\n"]
        path = runner.run(explorer.explore("diabetes", 0, []))
    assert len(path.moves) == 2 and path.failure == ""
