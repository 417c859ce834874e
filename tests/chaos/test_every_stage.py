"""One fault after another in every stage of a run: the run goes on, or is resumed, and nothing finished is done again.

A run for each fault, which strikes at a seeded moment inside of each stage in which it can; every process is the real
one. In the end each group was trained exactly once, and fine-tuning came to the weights of an undisturbed run.
`test_surviving` has the faults of the RL stage in one run, `test_several_hosts` a node that is lost.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from learner.run import status
from tests.main_job import leftovers, output, processes, require_once, require_trained, start, wait_until
from tests.private_engine import PrivateEngine, private_engine

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

STATES, ACTIONS = 2, 4
ARGUMENTS = (
    "rl.steps=6", f"rl.states={STATES}", f"rl.actions={ACTIONS}", "model.response=96", "evaluation.attempts=4",
    "experts.trajectories=24", "sandbox.cache=false", "sft.epochs=4", "checkpoint.every=2", "sft.checkpoint_every=2",
    "actors.count=2", "actors.cpus=0.5", "actors.heartbeat=8", "actors.replacements=99", "learner.restarts=99",
)  # fmt: skip
STAGES = ("start", "ideas", "expert", "evaluate base", "fine-tune", "evaluate sft", "reinforce", "evaluate rl")
STAGE_SECONDS = 300
GONE_SECONDS = 20
IDLE_PERCENT = 20


@dataclass
class Struck:
    """A run that is struck, and may have to be started again."""

    folder: Path
    model: Path
    fault: str
    process: subprocess.Popen = field(init=False)
    said: str = ""
    """By the processes that ended."""

    def begin(self, *more: str) -> None:
        self.process = start(self.folder, self.model, *ARGUMENTS, *more)

    def reach(self, stage: str) -> bool:
        """Wait until the run is at a seeded place in the stage; whether it is still in it."""
        place = random.Random(f"{self.fault}/{stage}").random()

        def there() -> bool:
            reached = self._stages()
            now = next((one for one in reached if one.name == stage), None)
            later = reached and STAGES.index(stage) < max(STAGES.index(one.name) for one in reached)
            return bool(later or (now and now.done - now.first >= place * 0.6 * (now.total - now.first)))

        wait_until(there, STAGE_SECONDS, self.process)
        return self._stages()[-1].name == stage

    def _stages(self) -> list[status.Stage]:
        file = self.folder / "smoke/status.json"
        found = status.read(file).stages if file.exists() else ()
        return [one for one in found if one.name in STAGES]

    def end(self) -> None:
        """Whatever it takes, no process of it is left."""
        self.process.kill()
        self.process.wait(10)
        assert leftovers(self.folder, 30) == []
        self.said += output(self.folder)

    def again(self) -> None:
        self.end()
        self.begin("run.resume=true")


def kill(title: str) -> Callable[[Struck], None]:
    """Kill the newest process of that name, if there is one yet."""

    def strike(run: Struck) -> None:
        if found := processes(run.folder, title):
            os.kill(found[-1], signal.SIGKILL)

    return strike


def stop_actor(run: Struck) -> None:
    if found := processes(run.folder, "ray::Actor"):
        os.kill(found[-1], signal.SIGSTOP)


def kill_idle_actor(run: Struck) -> None:
    """While the learner stands still, actors run ahead as far as they may, and then have nothing to do."""
    (rank,) = processes(run.folder, "ray::LearnerRank")
    os.kill(rank, signal.SIGSTOP)
    served = [psutil.Process(pid) for pid in processes(run.folder, "EngineCore")]
    wait_until(lambda: sum(one.cpu_percent(1.0) for one in served) < IDLE_PERCENT, 60, run.process)
    kill("ray::Actor")(run)
    os.kill(rank, signal.SIGCONT)


def kill_driver(run: Struck) -> None:
    run.process.kill()
    run.again()


def interrupt(run: Struck) -> None:
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(90) == 130, output(run.folder)
    run.again()


def kill_stream(run: Struck) -> None:
    kill("ray::Stream")(run)
    assert run.process.wait(90) == 1, output(run.folder)
    assert "the stream has ended" in output(run.folder) and "run.resume=true" in output(run.folder)
    run.again()


SOONER = tuple(stage for stage in STAGES if stage != "start")
FAULTS: dict[str, tuple[Callable[[Struck], None], tuple[str, ...]]] = {
    "actor killed": (kill("ray::Actor"), SOONER),
    "engine killed": (kill("EngineCore"), ("evaluate base", "fine-tune", "evaluate sft", "reinforce", "evaluate rl")),
    "idle actor killed": (kill_idle_actor, ("reinforce",)),
    "actor stopped": (stop_actor, SOONER),
    "rank killed": (kill("ray::LearnerRank"), STAGES),
    "stream killed": (kill_stream, ("reinforce",)),
    "driver killed": (kill_driver, STAGES),
    "interrupted": (interrupt, STAGES),
}
"""What strikes, and in which stages: before an actor can run anything, its death ends the run, which says so."""


def weights(folder: Path) -> dict:
    return load_file(folder / "smoke/checkpoints/step_0/hf/model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_model) -> dict:
    """What fine-tuning comes to where nothing happens."""
    run = Struck(_folder(tmp_path_factory.mktemp("undisturbed")), tiny_model, "none")
    run.begin("rl.steps=1", "checkpoint.keep=9")
    try:
        assert run.process.wait(600) == 0, output(run.folder)
    finally:
        run.end()
    return weights(run.folder)


def _folder(inside: Path) -> Path:
    (inside / "runs").mkdir()
    return inside / "runs"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_that_is_struck_in_every_stage_ends_as_if_nothing_had_been(fault, tmp_path, tiny_model, undisturbed):
    strike, stages = FAULTS[fault]
    run = Struck(_folder(tmp_path), tiny_model, fault)
    run.begin("checkpoint.keep=9")
    missed = []
    try:
        for stage in stages:
            if not run.reach(stage):
                missed.append(stage)
            strike(run)
        assert run.process.wait(2 * STAGE_SECONDS) == 0, output(run.folder)
    finally:
        run.end()
    print(fault, "came after its stage:", missed or "never")
    require_once(run.folder / "smoke", STATES, ACTIONS)
    require_trained(run.folder / "smoke")
    assert "most recent call last" not in run.said
    found = weights(run.folder)
    assert found.keys() == undisturbed.keys()
    assert all(found[name].equal(undisturbed[name]) for name in found)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[PrivateEngine]:
    with private_engine(tmp_path / "engine") as started:
        if not started:
            pytest.skip("NOT TESTED: no Docker Engine of one's own that may be killed")
        yield started


def test_a_container_engine_that_goes_in_every_stage(tmp_path, tiny_model, engine, undisturbed):
    run = Struck(_folder(tmp_path), tiny_model, "engine")
    run.begin("checkpoint.keep=9")
    try:
        for stage in ("expert", "evaluate base", "evaluate sft", "reinforce", "evaluate rl"):
            run.reach(stage)
            engine.kill()
            time.sleep(GONE_SECONDS)
            engine.start()
        assert run.process.wait(2 * STAGE_SECONDS) == 0, output(run.folder)
    finally:
        run.end()
    require_once(run.folder / "smoke", STATES, ACTIONS)


@pytest.mark.skipif(os.getuid() != 0, reason="NOT TESTED: only root can mount the small disk")
def test_a_disk_that_fills_in_every_stage_costs_no_more_than_a_resume(tmp_path, tiny_model, undisturbed):
    folder = _folder(tmp_path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600m", "tmpfs", str(folder)], check=True)
    run = Struck(folder, tiny_model, "disk")
    try:
        run.begin("checkpoint.keep=9")
        for stage in SOONER:
            run.reach(stage)
            _fill(folder / "filler")
            time.sleep(GONE_SECONDS)
            (folder / "filler").unlink()
            if run.process.poll() is not None:
                assert run.process.returncode == 1 and "run.resume=true" in output(folder), output(folder)
                run.again()
        assert run.process.wait(2 * STAGE_SECONDS) == 0, output(folder)
        run.end()
        require_once(folder / "smoke", STATES, ACTIONS)
        assert all(value.equal(undisturbed[name]) for name, value in weights(folder).items())
    finally:
        run.process.kill()
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(file: Path) -> None:
    with file.open("wb") as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(1 << 20))
            filler.flush()
