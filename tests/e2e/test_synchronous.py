"""`rl.max_staleness=0`: one seed, one result, to the bit; also where the run was interrupted, or is one process."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path

import pytest

from learner.run import transitions
from tests.main_job import output, start, wait_until

pytestmark = pytest.mark.long

ARGUMENTS = (
    "rl.max_staleness=0", "rl.steps=4", "rl.states=2", "rl.actions=4", "rl.algorithm=ppo", "rl.learning_rate=0.001",
    "model.response=96", "experts.trajectories=8", "evaluation.attempts=2", "tasks.held_out=[]",
    "rl.sampling=progress", "sandbox.cache=false",
)  # fmt: skip


def run(folder: Path, model: Path, interrupt: bool, *more: str) -> Path:
    process = start(folder, model, *ARGUMENTS, *more)
    try:
        if interrupt:
            wait_until((folder / "smoke/checkpoints/step_2").exists, 400, process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 130, output(folder)
            process = start(folder, model, *ARGUMENTS, "run.resume=true")
        assert process.wait(400) == 0, output(folder)
    finally:
        process.kill()
    return folder / "smoke"


def what_happened(folder: Path) -> dict[str, object]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = ("step", "loss", "reward_mean", "entropy", "grad_norm", "value_loss", "staleness_max", "logprob_gap_mean")
    columns = ["step", "id", "state_id", "text", "outcome", "reward", "behaviour_logprobs"]
    told = [{k: v for k, v in row.items() if k != "state_id"} for row in transitions.read(folder, columns=columns)]
    weights = next((folder / "checkpoints/step_4/hf").glob("*.safetensors")).read_bytes()
    return {
        "metrics": [{name: row[name] for name in names} for row in rows],
        "transitions": sorted(told, key=lambda row: row["id"]),
        "weights": hashlib.sha256(weights).hexdigest(),
    }


@pytest.fixture(scope="module")
def once(tmp_path_factory, tiny_model) -> dict[str, object]:
    return what_happened(run(tmp_path_factory.mktemp("once"), tiny_model, interrupt=False))


def test_a_synchronous_run_resumed_equals_the_uninterrupted_one(once, tmp_path_factory, tiny_model):
    again = what_happened(run(tmp_path_factory.mktemp("again"), tiny_model, interrupt=True))
    assert len(once["transitions"]) == 4 * 2 * 4
    assert {row["staleness_max"] for row in once["metrics"]} == {0}
    for mine, other in zip(once["transitions"], again["transitions"], strict=True):
        assert mine == other
    assert once["metrics"] == again["metrics"]
    assert once["weights"] == again["weights"]


def test_a_serial_run_in_one_process_equals_that_on_a_cluster(once, tmp_path_factory, tiny_model):
    serial = what_happened(run(tmp_path_factory.mktemp("serial"), tiny_model, False, "run.mode=serial"))
    assert serial["transitions"] == once["transitions"]
    assert serial["metrics"] == once["metrics"]
    assert serial["weights"] == once["weights"]
