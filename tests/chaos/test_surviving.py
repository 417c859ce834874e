"""One run that loses everything it can lose, one thing after another, and ends as if nothing had happened.

An actor is killed, the other stopped before a new one is there, a learner rank killed, the container engine killed and
started again, the checkpoints' disk filled, and at last the driver itself killed, whose run is resumed with one actor.
Each time the run has to go on, and in the end every group that was started was trained exactly once. `test_every_stage`
has the other stages, and more that is killed; tests/contract/actors/test_pool.py the actor that takes new weights.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.main_job import leftovers, output, processes, require_once, require_trained, start, wait_until
from tests.private_engine import PrivateEngine, private_engine

STATES, ACTIONS = 2, 4
MORE = 4
"""Learner steps that the resumed run does after those of the one that was killed."""
ARGUMENTS = (
    "rl.steps=9999", f"rl.states={STATES}", f"rl.actions={ACTIONS}", "model.response=96", "evaluation.attempts=2",
    "experts.trajectories=8", "sandbox.cache=false",
    "actors.count=2", "actors.cpus=0.5", "actors.heartbeat=6", "checkpoint.every=4", "rl.algorithm=ppo",
    "reward.version=tests.text_reward:letters",  # a random model's rewards vary, so that there is something to learn
)  # fmt: skip
RECOVERY_SECONDS = 180
ENGINE_GONE_SECONDS = 4


def steps_done(run_dir: Path) -> int:
    file = run_dir / "smoke/metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Iterator[PrivateEngine | None]:
    """A container engine that may be killed, used by the run; None where there can be none."""
    with private_engine(tmp_path_factory.mktemp("engine")) as started:
        yield started


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory) -> Iterator[Path | None]:
    """The folder of a run's checkpoints on a disk of its own; None where we may not mount one."""
    if os.getuid():
        yield None
        return
    folder = tmp_path_factory.mktemp("runs") / "smoke/checkpoints"
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, tiny_model, engine, small_disk) -> Path:
    folder = small_disk.parents[1] if small_disk else tmp_path_factory.mktemp("runs")
    process = start(folder, tiny_model, *ARGUMENTS)
    recovered: dict[str, float] = {}

    def lose(what: str, how: Callable[[], None], said: str) -> None:
        """Do it, and wait until the run has said that it noticed, and trained two more steps."""
        noticed, began = output(folder).count(said), time.monotonic()
        how()
        wait_until(lambda: output(folder).count(said) > noticed, RECOVERY_SECONDS, process)
        before = steps_done(folder)
        wait_until(lambda: steps_done(folder) >= before + 2, RECOVERY_SECONDS, process)
        recovered[what] = time.monotonic() - began

    def lose_container_engine() -> None:
        engine.kill()
        time.sleep(ENGINE_GONE_SECONDS)
        engine.start()

    def fill_disk() -> None:
        with (small_disk / "filler").open("wb") as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(1 << 20))
                filler.flush()

    try:
        wait_until(lambda: steps_done(folder) >= 2, 300, process)
        lose("actor killed at work", lambda: os.kill(processes(folder, "ray::Actor")[0], signal.SIGKILL), "replaced by")
        lose("actor stopped", lambda: os.kill(processes(folder, "ray::Actor")[0], signal.SIGSTOP), "no sign of life")
        ranks = processes(folder, "ray::LearnerRank")
        lose("rank killed", lambda: os.kill(ranks[0], signal.SIGKILL), "the learner starts again from")
        if engine:
            lose("container engine killed for a while", lose_container_engine, "reinforce")
        if small_disk:
            lose("disk filled", fill_disk, "no checkpoint of step")
            lose("disk emptied", (small_disk / "filler").unlink, f"checkpoint {small_disk}")
        assert "most recent call last" not in output(folder), "what is survived is told in a line"
        process.kill()  # and Ray's processes end with it
        process.wait(10)
        wait_until_gone(folder)
        process = start(
            folder, tiny_model, *ARGUMENTS, "run.resume=true", "actors.count=1", f"rl.steps={steps_done(folder) + MORE}"
        )
        assert process.wait(400) == 0, output(folder)
    finally:
        process.kill()
    print({what: f"{seconds:.0f} s" for what, seconds in recovered.items()})
    return folder


def wait_until_gone(folder: Path) -> None:
    end = time.monotonic() + 30
    while (left := leftovers(folder)) and time.monotonic() < end:
        time.sleep(0.5)
    assert left == [], "what a killed driver leaves"


def test_every_started_group_was_trained_exactly_once(run_dir):
    require_once(run_dir / "smoke", STATES, ACTIONS)


def test_what_was_delivered_is_what_was_trained(run_dir):
    require_trained(run_dir / "smoke")
    told = [json.loads(line) for line in (run_dir / "smoke/metrics.jsonl").read_text().splitlines()]
    assert sum(row["loss"] is not None for row in told) > len(told) / 2, "what it trained on had nothing to tell"


def test_nothing_is_left_of_it_and_the_results_are_there(run_dir):
    assert leftovers(run_dir) == []
    assert (run_dir / "smoke/report.html").exists()
    assert set(json.loads((run_dir / "smoke/evaluation.json").read_text())["tasks"][0]["stages"]) == {
        "base",
        "sft",
        "rl",
    }
