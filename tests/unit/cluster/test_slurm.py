"""The script for Slurm: what it asks srun for, and what it refuses. Slurm stands at the border; Ray's own parser reads
the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "cluster" / "slurm" / "mlagent.sbatch"
SRUN = f"""#!{sys.executable}
import json, os, sys
if "hostname" in sys.argv:
    print("10.1.2.3 192.168.0.3 ")
else:
    named = {{key: value for key, value in os.environ.items() if key.startswith(("RAY_", "PYTHONPATH"))}}
    json.dump({{"command": sys.argv[1:], "environment": named}}, open(os.environ["SEEN"], "w"))
    sys.exit(3)
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job, in a checkout."""
    for name, text in (("srun", SRUN), ("scontrol", "#!/bin/sh\nprintf 'node7\\nnode8\\n'\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SEEN": str(tmp_path / "seen.json"), "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2", "SLURM_SUBMIT_DIR": str(tmp_path),
    }  # fmt: skip


def submitted(environment: dict[str, str], *keys: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *keys], env=environment, capture_output=True, text=True)


def test_every_node_joins_one_cluster_on_whose_first_the_doctor_and_then_the_run_start(slurm):
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args, symmetric_run

    done = submitted(slurm, "config=/shared/run.yaml", "run.name=a b")
    assert done.returncode == 3, f"the job's exit code is srun's: {done.stderr}"
    seen = json.loads(Path(slurm["SEEN"]).read_text())
    command, environment = seen["command"], seen["environment"]
    start = command.index("symmetric-run") + 1
    end = command.index("--")
    asked = symmetric_run.make_context("_", command[start:end]).params
    assert (asked["address"], asked["min_nodes"]) == ("10.1.2.3:23456", 2)
    assert "--temp-dir=/tmp/mlagent-123456" in curate_and_validate_ray_start_args(command[start:end])
    assert environment["RAY_ADDRESS"] == asked["address"] and environment["RAY_AUTH_MODE"] == "token"
    token = environment["RAY_AUTH_TOKEN"]
    assert len(token) == 64 and token not in " ".join(command)
    for code in (0, 1):  # of the doctor
        python = Path(slurm["SLURM_SUBMIT_DIR"]) / "python"
        python.write_text(f'#!/bin/sh\necho "$@"\n[ "$2" != cluster.doctor ] || exit {code}\n')
        python.chmod(0o755)
        ran = subprocess.run(command[end + 1 :], env=slurm, capture_output=True, text=True)
        said = [f"-m cluster.{name} config=/shared/run.yaml run.name=a b" for name in ("doctor", "restartable")]
        assert (ran.returncode, ran.stdout.splitlines()) == (code, said[: 2 - code])


@pytest.mark.parametrize(
    ("lacks", "keys", "says"),
    [
        ("", (), "give the run's keys"),
        ("SLURM_JOB_NODELIST", ("rl.steps=1",), "this is for sbatch"),
        (".venv", ("rl.steps=1",), "submit from the checkout"),
    ],
)
def test_what_cannot_start_says_what_to_do(lacks, keys, says, slurm):
    slurm.pop(lacks, None)
    if lacks == ".venv":
        (Path(slurm["SLURM_SUBMIT_DIR"]) / ".venv").unlink()
    done = submitted(slurm, *keys)
    assert done.returncode == 2 and says in done.stderr and not Path(slurm["SEEN"]).exists()
