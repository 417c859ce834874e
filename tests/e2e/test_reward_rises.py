"""The recipe of `make train` with the real model: fine-tuning, and then reinforcement, earn more than came before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.policy.model import BUILTIN
from tests.main_job import leftovers, output, require_trained, start

pytestmark = [pytest.mark.long, pytest.mark.timeout(4000)]

SECONDS = 3600
"""Twenty minutes on two idle cores."""
HELD_IN = "tasks.held_in=[wine,wine_alcohol,diabetes,digits]"


def test_each_stage_of_the_quickstart_raises_the_reward_by_more_than_noise(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    process = start(folder, BUILTIN, HELD_IN, "tasks.held_out=[]", config="quickstart")
    try:
        assert process.wait(SECONDS) == 0, output(folder)
    finally:
        process.kill()
    assert leftovers(folder) == []
    stages = json.loads((folder / "quickstart/evaluation.json").read_text())["splits"]["held_in"]
    print({stage: (found["mean_reward"], found.get("gain_ci")) for stage, found in stages.items()})
    assert stages["sft"]["gain_ci"][0] > 0, "fine-tuning: the lower end of what it gained"
    assert stages["rl"]["gain_ci"][0] > 0, "reinforcement: the lower end of what it gained over fine-tuning"
    require_trained(folder / "quickstart")
