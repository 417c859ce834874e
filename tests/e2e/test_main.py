"""The whole loop, every part real: interrupted after its first checkpoint, resumed, and looked at from outside.

A tiny random model takes the policy's place: its texts are no actions, and rewarded for their letters, so that rewards
vary and the learner takes steps. Experiments run in Docker where an engine answers, otherwise in the process sandbox.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from learner.run import transitions
from tests import text_reward
from tests.main_job import leftovers, output, require_trained, start, wait_until

STEPS, STATES, ACTIONS, ATTEMPTS = 5, 2, 4, 4
SMALL = (
    "model.response=128", "experts.trajectories=16", "experts.steps=1", "sft.epochs=4", "sft.learning_rate=0.005",
    f"reward.version={text_reward.PATH}", "rl.learning_rate=0.0002",
    f"rl.steps={STEPS}", f"rl.states={STATES}", f"rl.actions={ACTIONS}", f"evaluation.attempts={ATTEMPTS}",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model) -> Path:
    """The folder of a run that was interrupted in RL and resumed to its end."""
    folder = tmp_path_factory.mktemp("runs")
    process = start(folder, tiny_model, *SMALL)
    try:
        wait_until((folder / "smoke/checkpoints/step_1").exists, 600, process)
        process.send_signal(signal.SIGTERM)  # as `ray job stop` does
        assert process.wait(60) == 130, output(folder)
    finally:
        process.kill()
    assert leftovers(folder) == []
    lines = (folder / "smoke/metrics.jsonl").read_text().count("\n")
    assert 1 <= lines < STEPS, "the interrupt came too late to test resuming"

    process = start(folder, tiny_model, *SMALL, "run.resume=true")
    try:
        assert process.wait(600) == 0, output(folder)
    finally:
        process.kill()
    assert leftovers(folder) == []
    assert "resumed from" in output(folder)
    return folder / "smoke"


def test_every_learner_step_is_told_once(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row in rows:
        assert row["transitions"] == STATES * ACTIONS == sum(row["outcomes"].values())
        assert 0 <= row["staleness_max"] <= 1
        assert row["tokens_per_s"] > 0 and row["seconds"] > 0
        assert row["loss"] is not None and row["grad_norm"] > 0
        assert row["logprob_gap_mean"] < 0.1 or not row["logprob_gap_on_current"]


def test_what_was_delivered_is_what_was_trained(run):
    require_trained(run)


def test_every_transition_is_trained_once_and_complete(run):
    rows = list(transitions.read(run))
    assert len({row["id"] for row in rows}) == len(rows) == STEPS * STATES * ACTIONS
    assert set(Counter(row["group_id"] for row in rows).values()) == {ACTIONS}
    for row in rows:
        assert len(row["response_ids"]) == len(row["behaviour_logprobs"]) > 0
        assert np.max(row["behaviour_logprobs"]) <= 0
        spans = row["version_spans"]
        assert spans[0]["start"] == 0 and spans[-1]["end"] == len(row["response_ids"])
        assert all(span["version"] >= 1 for span in spans)


def test_evaluation_covers_all_stages(run):
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert {(task["task"], task["split"]) for task in evaluation["tasks"]} == {
        ("wine", "held_in"), ("iris_petal", "held_out"),
    }  # fmt: skip
    for task in evaluation["tasks"]:
        assert set(task["stages"]) == {"base", "sft", "rl"}
        assert all(stage["n"] == ATTEMPTS for stage in task["stages"].values())
        assert task["m_init"] is not None


def test_the_checkpoint_is_a_plain_model_that_was_trained(run):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    newest = run / f"checkpoints/step_{STEPS}/hf"

    def weights(step: int) -> dict[str, torch.Tensor]:
        return AutoModelForCausalLM.from_pretrained(run / f"checkpoints/step_{step}/hf").state_dict()

    trained, before = weights(STEPS), weights(STEPS - 1)  # the step between them was reinforcement's
    assert any(not torch.equal(trained[name], before[name]) for name in trained)
    assert AutoTokenizer.from_pretrained(newest).chat_template


def test_the_report_is_there(run):
    assert "wine" in (run / "report.html").read_text()
    assert list((run / "tensorboard").iterdir())
