"""Which sandboxes the pool starts, keeps and closes; where containers would be, stands a stub of a backend."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

import envs.sandbox
from envs.admission import Capacity
from envs.errors import LastingFailure
from envs.experiments import SandboxRunner
from envs.records import Limits
from envs.sandbox import SandboxFailure, SandboxPool
from tests.sandbox_task import LIMITS, make_task


class StubBackend:
    """Its sandboxes answer everything at once; while `broken` or `lasting`, none starts."""

    name, image, guarded, maps_root = "stub", "none", False, False

    def __init__(self) -> None:
        self.broken, self.seconds, self.lasting = False, 0.0, False
        self.alive: list[StubChannel] = []
        self.tried = self.most_at_once = self._starting = 0

    def open(self, folders, kind, uid) -> StubChannel:
        self.tried += 1
        self._starting += 1
        self.most_at_once = max(self.most_at_once, self._starting)
        time.sleep(self.seconds)
        self._starting -= 1
        if self.lasting:
            raise LastingFailure("its image cannot be built")
        if self.broken:
            raise SandboxFailure("the engine is away")
        self.alive.append(StubChannel(self, kind.limits, kind.gpus))
        return self.alive[-1]


class StubChannel:
    contained = True

    def __init__(self, backend: StubBackend, limits: Limits, gpus: tuple[int, ...]):
        self.backend, self.gpus, self.fixed = backend, gpus, limits
        self.shares = [(limits.memory_mb, limits.cpus)]

    def limit(self, memory_mb, cpus):
        self.shares.append((memory_mb, cpus))

    def send(self, line):
        pass

    def receive(self, timeout):
        if self.backend.broken:
            raise SandboxFailure("it ended")
        return json.dumps({"status": "ok", "exit_code": 0, "seconds": 0.0, "output": [0, 0, 0], "milestones": []})

    def receive_bytes(self, count, timeout):
        return b""

    def ran_out_of_memory(self):
        return False

    def has_room(self, memory_mb):
        return True

    def close(self):
        self.backend.alive.remove(self)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StubBackend:
    stub = StubBackend()
    monkeypatch.setattr(envs.sandbox, "_choose", lambda *_: stub)
    monkeypatch.setattr(envs.sandbox, "RETRY_SECONDS", 0.01)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return stub


@pytest.fixture
def pool(backend: StubBackend) -> Iterator[SandboxPool]:
    opened = SandboxPool(warm=0)
    yield opened
    opened.close()


def test_sandboxes_are_started_ahead_of_need_and_beside_each_other(
    backend: StubBackend, pool: SandboxPool, tmp_path: Path
) -> None:
    """Four cores hold four experiments with one core or two with two, whatever the number of tasks."""
    backend.seconds = 0.05
    task, wide = make_task(tmp_path / "a"), make_task(tmp_path / "b", replace(LIMITS, cpus=2))
    more = make_task(tmp_path / "c", replace(LIMITS, memory_mb=600))
    runner = SandboxRunner(pool, Capacity(cpus=4, memory_mb=8000))
    runner.expect([task, wide, more])
    until(lambda: pool.idle == 6)
    assert sorted(channel.fixed.cpus for channel in backend.alive) == [1, 1, 1, 1, 2, 2]
    assert backend.most_at_once > 1
    for _ in range(5):
        with ExitStack() as held:
            for one in (task, more, task, more, wide, wide):
                held.enter_context(pool.acquire(one))
    assert pool.starts == backend.tried == 6


def test_an_experiment_takes_the_sandbox_that_has_least_to_change(
    backend: StubBackend, pool: SandboxPool, tmp_path: Path
) -> None:
    tasks = [make_task(tmp_path / "a"), make_task(tmp_path / "b", replace(LIMITS, memory_mb=500, cpus=0.5))]
    pool.expect({(LIMITS, ()): 2})
    with pool.acquire(tasks[0]) as first, pool.acquire(tasks[1]) as second:
        pass
    for _ in range(2):
        with pool.acquire(tasks[0]) as again:
            assert again is first
        with pool.acquire(tasks[1]) as again:
            assert again is second
    assert sorted(channel.shares[1:] for channel in backend.alive) == [[(300, 1.0)], [(500, 0.5)]]


def test_what_failed_is_replaced_and_starts_that_fail_are_tried_again(backend: StubBackend, tmp_path: Path) -> None:
    task, pool = make_task(tmp_path / "a"), SandboxPool(warm=0, patience=30)
    pool.expect({(LIMITS, ()): 3})
    until(lambda: pool.idle == 3)
    with pytest.raises(SandboxFailure), pool.acquire(task):
        backend.broken = True
        raise SandboxFailure("it ended")
    assert pool.idle == 0 and not backend.alive, "those that were idle are suspects"
    until(lambda: backend.tried > 8)  # three at first, then again and again
    backend.broken = False
    until(lambda: pool.idle == 3)
    with pool.acquire(task):
        pass
    assert pool.starts == 6
    pool.close()


def test_a_start_that_cannot_but_fail_is_not_tried_again(backend: StubBackend, tmp_path: Path) -> None:
    task, pool = make_task(tmp_path / "a"), SandboxPool(warm=0, patience=30)
    with pool.acquire(task) as sandbox:
        sandbox.usable = False
    backend.lasting = True
    with pytest.raises(SandboxFailure, match="cannot be built"), pool.acquire(task):
        pass
    assert backend.tried == 2
    pool.close()


def test_an_experiment_that_finds_none_waits_for_one_that_is_coming(
    backend: StubBackend, pool: SandboxPool, tmp_path: Path
) -> None:
    backend.seconds = 0.3
    pool.expect({(LIMITS, ()): 1})
    with pool.acquire(make_task(tmp_path / "a")):
        assert backend.tried == 1


def test_a_start_ahead_that_fails_leaves_the_experiment_to_start_its_own(
    backend: StubBackend, pool: SandboxPool, tmp_path: Path
) -> None:
    backend.broken, backend.seconds = True, 0.1
    pool.expect({(LIMITS, ()): 1})
    with pytest.raises(SandboxFailure, match="the engine is away"), pool.acquire(make_task(tmp_path / "a")):
        pass
    backend.broken = False
    with pool.acquire(make_task(tmp_path / "b")):
        pass
    assert pool.starts == 1


def test_a_sandbox_that_is_used_up_is_replaced(backend: StubBackend, pool: SandboxPool, tmp_path: Path) -> None:
    pool.expect({(LIMITS, ()): 2})
    until(lambda: pool.idle == 2)
    with pool.acquire(make_task(tmp_path / "a")) as sandbox:
        sandbox.usable = False
    until(lambda: pool.idle == 2)
    assert pool.starts == 3 and len(backend.alive) == 2


def test_fewer_are_kept_where_fewer_are_expected_and_no_more_than_warm_where_that_is_set(
    backend: StubBackend, tmp_path: Path
) -> None:
    for warm, kept in ((0, 2), (1, 1)):
        pool = SandboxPool(warm=warm)
        pool.expect({(LIMITS, ()): 4})
        until(lambda pool=pool, most=warm or 4: pool.idle == most)
        pool.expect({(LIMITS, ()): 1})  # one more, used last, is kept for an experiment that nobody expected
        assert pool.idle == len(backend.alive) == kept
        pool.close()


def test_each_gpu_has_a_sandbox_of_its_own(backend: StubBackend, pool: SandboxPool, tmp_path: Path) -> None:
    task = make_task(tmp_path / "a", replace(LIMITS, gpus=1))
    SandboxRunner(pool, Capacity(cpus=8, memory_mb=8000, gpus=(3, 5))).expect([task])
    until(lambda: pool.idle == 2)
    with pool.acquire(task, (5,)), pool.acquire(task, (3,)):
        assert sorted(channel.gpus for channel in backend.alive) == [(3,), (5,)]


def test_closing_leaves_nothing_also_of_what_was_just_starting(backend: StubBackend, tmp_path: Path) -> None:
    pool, task = SandboxPool(warm=0), make_task(tmp_path / "a")
    backend.seconds = 0.2
    with pool.acquire(task):
        pool.expect({(LIMITS, ()): 3})
        threading.Timer(0.05, pool.close).start()
        until(lambda: pool._closed)
        with pytest.raises(SandboxFailure, match="closed"), pool.acquire(task):
            pass
    until(lambda: not backend.alive)
    pool.close()
    assert not backend.alive and not list(Path(tempfile.tempdir).iterdir())


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.005)


def test_where_memory_is_short_no_sandbox_is_kept_and_experiments_run_all_the_same(
    backend: StubBackend, pool: SandboxPool, tmp_path: Path
) -> None:
    pool.expect({(LIMITS, ()): 3})
    until(lambda: pool.idle == 3)
    pool.spare(True)
    assert pool.idle == 0 and not backend.alive
    with pool.acquire(make_task(tmp_path / "a")):
        assert len(backend.alive) == 1
    assert not backend.alive
    pool.spare(False)
    until(lambda: pool.idle == 3)
