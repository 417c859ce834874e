"""The evaluation command, for real: a model of our own beside the baselines, single steps and episodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.main_job import ROOT, engine_answers

ASKED = (
    "tasks.held_in=[wine]", "tasks.held_out=[iris_petal]", "model.response=96", "evaluation.attempts=2",
    "evaluation.states=2", "evaluation.steps=4", "experts.steps=3", "actors.kv_cache_gb=0.2",
)  # fmt: skip


def evaluate(folder: Path, *arguments: str) -> tuple[dict, str]:
    """What the command wrote to evaluation.json, and what it said."""
    command = [
        sys.executable, "learner/evaluate.py", *ASKED, f"evaluation.folder={folder}",
        f"sandbox.backend={'docker' if engine_answers() else 'process'}", *arguments,
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "evaluation.json").read_text()), done.stdout


def test_agents_are_compared_on_the_same_states_seeds_and_budget(tiny_model, tmp_path):
    result, said = evaluate(tmp_path, str(tiny_model))
    names = [agent["name"] for agent in result["agents"]]
    assert names == [tiny_model.name, "random", "expert", "greedy"]
    assert {task: kinds[0] for task, kinds in result["settings"]["states"].items()} == dict.fromkeys(
        ["wine", "iris_petal"], "initial"
    )
    for split in ("held_in", "held_out"):
        of_split = result["splits"][split]
        for name in names[:3]:
            step, episode = of_split[name]["step"], of_split[name]["episode"]
            assert (step["n"], step["actions"], episode["n"], episode["cut"]) == (4, 4, 2, 0)
        policy, expert, greedy = (of_split[name]["episode"] for name in (names[0], "expert", "greedy"))
        assert policy["actions"] == expert["actions"] == greedy["actions"] == 8
        assert 0 < policy["response_tokens"] <= 8 * 96 and policy["valid_rate"] < 0.5  # it is a random model
        assert expert["valid_rate"] > 0.5 and expert["improvement"] > 0 and greedy["improvement"] > 0
        assert expert["over"]["agent"] == tiny_model.name
        assert expert["over"]["improvement"] == pytest.approx(expert["improvement"] - policy["improvement"])
        assert "step" not in of_split["greedy"]
    assert "episodes of at most 4 actions" in said and "held-out" in said
    attempts = [json.loads(line) for line in (tmp_path / "attempts.jsonl").read_text().splitlines()]
    assert len(attempts) == 3 * (8 + 4) + 4

    again, _ = evaluate(tmp_path, "run.mode=serial")  # without the model: nothing is run that was run before
    for split in ("held_in", "held_out"):
        for name in ("random", "expert", "greedy"):
            for setting, found in again["splits"][split][name].items():
                before = result["splits"][split][name][setting]
                assert found["cached"] == found["experiments"] == before["experiments"]
                assert found["improvement"] == before["improvement"]
