"""The container engine crashes and comes back: experiments that it ran, or was about to, run again; none is lost."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from envs.admission import Capacity
from envs.experiments import SandboxRunner
from envs.records import Limits, Outcome
from envs.sandbox import SandboxFailure, SandboxPool
from tests.private_engine import PrivateEngine, private_engine
from tests.sandbox_task import make_task

GONE_SECONDS = 4.0
SCRIPT = "import time\ntime.sleep({seconds})\nopen('submission.csv', 'w').write('{score}')\n"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateEngine]:
    with private_engine(tmp_path_factory.mktemp("engine")) as started:
        if not started:
            pytest.skip("NOT TESTED, it takes root and a Docker Engine with the sandbox image")
        yield started


def test_experiments_outlive_a_crash_of_the_engine(engine: PrivateEngine, tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", Limits(seconds=60, memory_mb=300, disk_mb=32, processes=24))
    runner = SandboxRunner(SandboxPool("docker", warm=4, patience=120), Capacity(4.0, 4096))

    def run(number: int, seconds: float):
        return runner.run(task, {task.script: SCRIPT.format(seconds=seconds, score=number)})

    with ThreadPoolExecutor(4) as threads:
        assert [one.score for one in threads.map(run, range(4), [0.5] * 4)] == [0, 1, 2, 3]  # four are warm now
        running = [threads.submit(run, number, 3.0) for number in (4, 5)]
        time.sleep(1.0)
        engine.kill()
        waiting = [threads.submit(run, number, 0.1) for number in (6, 7)]
        time.sleep(GONE_SECONDS)
        engine.start()
        back = time.monotonic()
        found = [one.result(240) for one in running + waiting]
    print(f"recovered in {time.monotonic() - back:.1f} s")
    assert [(one.outcome, one.score) for one in found] == [(Outcome.EDITED, number) for number in (4, 5, 6, 7)], found
    runner.close()
    end = time.monotonic() + 60
    while left := containers(engine):  # one that ends by itself is still there while the engine removes it
        assert time.monotonic() < end, left
        time.sleep(0.2)


def containers(engine: PrivateEngine) -> str:
    return subprocess.check_output(["docker", "-H", engine.host, "ps", "-a"], text=True).partition("\n")[2]


def test_an_engine_that_stays_away_is_said(engine: PrivateEngine, tmp_path: Path) -> None:
    task, pool = make_task(tmp_path / "task"), SandboxPool("docker", patience=2)
    with pool.acquire(task):
        pass
    pool.close()
    pool = SandboxPool("docker", warm=1, patience=2)
    with pool.acquire(task):
        engine.kill()
        asked = time.monotonic()
        with pytest.raises(SandboxFailure, match="is it running"), pool.acquire(task):
            pass
    assert 2 <= time.monotonic() - asked < 20
    pool.close()
