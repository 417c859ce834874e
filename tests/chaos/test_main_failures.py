"""What goes wrong in a run ends it with one clear message and exit code 1 (2 where nothing was started), and leaves
earlier results as they were."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.main_job import MARK, leftovers, output, start, wait_until


def ended(run_dir: Path, process: subprocess.Popen, seconds: float = 180, code: int = 1) -> str:
    """The first line of the error that a failed run ended with."""
    try:
        assert process.wait(seconds) == code, output(run_dir)
    finally:
        process.kill()
    assert leftovers(run_dir) == []
    assert "most recent call last" not in output(run_dir).partition("End of its log")[0]
    return f"\n{output(run_dir)}".partition("\nerror: ")[2].splitlines()[0]


def engines(run_dir: Path) -> list[psutil.Process]:
    """The engine processes of a run."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            if process.environ().get(MARK) == str(run_dir) and ("EngineCore" in line or "spawn_main" in line):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def run_dir(tmp_path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def test_a_folder_that_is_no_model_is_named(run_dir):
    (run_dir / "letters").mkdir()
    message = ended(run_dir, start(run_dir, run_dir / "letters"), code=2)
    assert f"{run_dir}/letters" in message and "config.json" in message


@pytest.mark.parametrize("script", ["learner/experts.py", pytest.param("learner/main.py", marks=pytest.mark.long)])
def test_a_task_whose_script_fails_is_named_with_its_log(run_dir, tiny_model, script):
    """In `learner/main.py` an engine and a rank are starting meanwhile."""
    from envs.benchmarks.loader import BUILTIN

    task = run_dir / "broken"
    shutil.copytree(BUILTIN / "wine", task)
    (task / "env/train.py").write_text("raise RuntimeError('the data moved')\n")
    process = start(run_dir, tiny_model, f"tasks.held_in=[{task}]", "tasks.held_out=[]", script=script)
    assert "task broken" in ended(run_dir, process) and "the data moved" in output(run_dir)


@pytest.mark.long
def test_an_engine_that_cannot_be_replaced_and_a_damaged_state_pool_leave_earlier_results_intact(run_dir, tiny_model):
    process, run = start(run_dir, tiny_model, "rl.steps=200", "actors.replacements=0"), run_dir / "smoke"
    try:
        wait_until((run / "checkpoints/step_1").exists, 180, process)
        for engine in engines(run_dir):
            os.kill(engine.pid, signal.SIGKILL)
        message = ended(run_dir, process)
    finally:
        process.kill()
    assert "actor-0" in message and "engine" in message
    stages = json.loads((run / "evaluation.json").read_text())["tasks"][0]["stages"]
    assert set(stages) == {"base", "sft"}
    kept = sorted(path.name for path in (run / "checkpoints").glob("step_*"))

    (run / "states.json").write_bytes((run / "states.json").read_bytes()[:-9])
    message = ended(run_dir, start(run_dir, tiny_model, "rl.steps=200", "run.resume=true"))
    assert f"{run}/states.json" in message
    assert sorted(path.name for path in (run / "checkpoints").glob("step_*")) == kept
    assert set(json.loads((run / "evaluation.json").read_text())["tasks"][0]["stages"]) == {"base", "sft"}


@pytest.mark.long
@pytest.mark.skipif(os.getuid() != 0, reason="NOT TESTED: only root can mount the small disk")
def test_a_full_disk_is_said_and_the_evaluation_is_kept(run_dir, tiny_model):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(run_dir)], check=True)
    try:
        message = ended(run_dir, start(run_dir, tiny_model))
        assert "0 MiB free on its disk" in message and str(run_dir) in message
        stages = json.loads((run_dir / "smoke/evaluation.json").read_text())["tasks"][0]["stages"]
        assert set(stages) == {"base", "sft"} and not list((run_dir / "smoke/checkpoints").glob("step_*"))
    finally:
        subprocess.run(["umount", str(run_dir)], check=True)
