"""The whole loop on one card, which learner and engine share."""

from __future__ import annotations

import json

import pytest

from tests.main_job import leftovers, output, start


@pytest.mark.parametrize(
    "more", [(), ("learner.lora.rank=16",), ("actors.colocate=true",)], ids=["full", "lora", "turns"]
)
def test_a_run_trains_and_publishes_on_the_card(tmp_path, more):
    folder = tmp_path / "runs"
    folder.mkdir()
    arguments = (
        "learner.gpus=0.5", "actors.gpus=0.5", "learner.check_every=1", "rl.steps=3", "experts.trajectories=12",
        "sft.epochs=2", "sft.learning_rate=5.0e-4", "reward.steepness=3", *more,
    )  # fmt: skip
    process = start(folder, "builtin:smollm2-135m", *arguments)
    try:
        assert process.wait(240) == 0, output(folder)[-4000:]
    finally:
        process.kill()
    assert leftovers(folder) == []
    rows = [json.loads(line) for line in (folder / "smoke/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all((row["publish_mb"] == 0) == ("actors.colocate=true" not in more) for row in rows)
    trained = [row for row in rows if row["loss"] is not None]
    assert trained and all(row["logprob_gap_mean"] < 0.05 for row in trained)
