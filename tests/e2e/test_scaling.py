"""The number of actors follows the demand on a cluster of several Ray nodes; tests/scaled_run.py is what runs."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
def test_actors_come_and_go_with_the_demand_and_survive_the_loss_of_a_node(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(secrets.token_hex(32))
    environment = {
        **os.environ, "PYTHONPATH": str(Path(__file__).parents[2]),
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
    }  # fmt: skip
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "tests.scaled_run", str(tmp_path)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        said, _ = process.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    print(said)
    assert process.returncode == 0, said
