"""The experiment cache and the simulated backend; the runner beneath them stands in for a sandbox."""

import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from envs.admission import Capacity
from envs.benchmarks.loader import TaskError
from envs.experiment_cache import CachedRunner
from envs.records import Direction, Durations, Experiment, Limits, Origin, Outcome, Task, Withheld
from envs.sandbox import SandboxFailure
from envs.simulated import SimulatedRunner

TASK = Task(
    "toy", "problem", Path("/env"), Path("/scripts"), "train.py", frozenset(), "accuracy", Direction.MAXIMIZE,
    "held_in", Limits(), 1.0, digest="toy-1",
)  # fmt: skip
FILES = {"train.py": "print(1)"}
PLENTY = Capacity(cpus=64, memory_mb=1e6)


class Counting:
    """Runs an experiment by writing a line to a file; takes a moment, as a sandbox would."""

    name, image, running = "process", "image-1", 0

    def __init__(self, tally: Path, seed: int = 0, seconds: float = 0.0):
        self._tally, self.seed, self._seconds = tally, seed, seconds

    @property
    def runs(self) -> int:
        return len(self._tally.read_text()) if self._tally.exists() else 0

    def run(self, task, files) -> Experiment:
        with self._tally.open("a") as tally:
            tally.write("x")
        time.sleep(self._seconds)
        score = float(len(files["train.py"]))
        return Experiment(Outcome.EDITED, score, "log", Durations(execute=2.5), 30.0, ("data_opened",))

    def expect(self, tasks) -> None:
        self.expected = list(tasks)


@pytest.fixture
def counting(tmp_path):
    return Counting(tmp_path / "tally")


@pytest.mark.parametrize(("parts", "on_test"), [(None, None), (Path("/parts"), 0.5)])
def test_what_an_earlier_version_kept_has_a_figure_on_test_only_where_the_answers_have_parts(
    counting, tmp_path, parts, on_test
):
    task, cache = dataclasses.replace(TASK, parts=parts), tmp_path / "cache"
    CachedRunner(counting, cache).run(task, FILES)
    (record,) = cache.glob("*/*.json")
    kept = json.loads(record.read_text())
    record.write_text(json.dumps({**kept, "withheld": {"test": 0.5, "whole": None}}))
    found = CachedRunner(counting, cache).run(task, FILES)
    assert found.origin is Origin.CACHE and isinstance(found.withheld, Withheld) and found.withheld.on_test == on_test


def test_the_sandbox_beneath_is_told_which_tasks_will_come(counting, tmp_path):
    CachedRunner(counting, tmp_path / "cache").expect([TASK])
    assert counting.expected == [TASK]


def test_an_identical_experiment_is_answered_with_the_first_ones_result(counting, tmp_path):
    first = CachedRunner(counting, tmp_path / "cache").run(TASK, FILES)
    again = CachedRunner(counting, tmp_path / "cache").run(TASK, FILES)
    assert (first.origin, again.origin, counting.runs) == (Origin.RUN, Origin.CACHE, 1)
    assert dataclasses.replace(again, origin=Origin.RUN) == first and again.durations.execute == 2.5


@pytest.mark.parametrize(
    ("task", "files", "seed", "image"),
    [
        (TASK, {"train.py": "print(2)"}, 0, "image-1"),
        (TASK, {**FILES, "notes.py": ""}, 0, "image-1"),
        (dataclasses.replace(TASK, digest="toy-2"), FILES, 0, "image-1"),
        (dataclasses.replace(TASK, fidelity=0.1), FILES, 0, "image-1"),
        (dataclasses.replace(TASK, script="main.py"), FILES, 0, "image-1"),
        (dataclasses.replace(TASK, parts=Path("toy-parts")), FILES, 0, "image-1"),
        (dataclasses.replace(TASK, limits=Limits(memory_mb=7)), FILES, 0, "image-1"),
        (TASK, FILES, 1, "image-1"),
        (TASK, FILES, 0, "image-2"),
    ],
)
def test_whatever_a_result_depends_on_makes_another_experiment(counting, tmp_path, task, files, seed, image):
    CachedRunner(counting, tmp_path / "cache").run(TASK, FILES)
    counting.seed, counting.image = seed, image
    assert CachedRunner(counting, tmp_path / "cache").run(task, files).origin is Origin.RUN
    assert counting.runs == 2


def test_a_task_without_a_digest_is_known_by_its_folder(counting, tmp_path):
    cached = CachedRunner(counting, tmp_path / "cache")
    one, other = (dataclasses.replace(TASK, digest="", env_dir=Path(folder)) for folder in ("/one", "/other"))
    assert [cached.run(task, FILES).origin for task in (one, other, one)] == [Origin.RUN, Origin.RUN, Origin.CACHE]


def test_different_experiments_run_at_the_same_time(counting, tmp_path):
    both = threading.Barrier(2)

    class Meeting(Counting):
        def run(self, task, files):
            assert task is TASK
            both.wait(timeout=20)
            return super().run(task, files)

    cached = CachedRunner(Meeting(tmp_path / "tally"), tmp_path / "cache")
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda text: cached.run(TASK, {"train.py": text}), ["a", "bb"]))
    assert [one.score for one in results] == [1.0, 2.0]


def test_what_is_known_is_answered_without_the_lock_which_is_in_a_folder_of_ones_own(counting, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cached = CachedRunner(counting, tmp_path / "cache")
    cached.run(TASK, FILES)
    (folder,) = tmp_path.glob("mlagent-locks-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert cached.run(TASK, FILES).origin is Origin.CACHE


def test_the_rest_of_a_runner_is_that_of_the_one_beneath(counting, tmp_path):
    told = []
    counting.resize, counting.close, counting.running = told.append, lambda: told.append("closed"), 3
    cached = CachedRunner(counting, tmp_path / "cache")
    cached.resize(PLENTY)
    cached.close()
    assert (cached.name, cached.running, told) == ("process", 3, [PLENTY, "closed"])


def run_once(folder: str) -> None:
    CachedRunner(Counting(Path(folder) / "tally", seconds=0.3), Path(folder) / "cache").run(TASK, FILES)


def test_duplicates_at_the_same_time_wait_for_the_first_in_threads_and_processes(counting, tmp_path):
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=run_once, args=(str(tmp_path),)) for _ in range(2)]
    both += [threading.Thread(target=run_once, args=(str(tmp_path),)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert counting.runs == 1


READERS = """
import sys, threading
from envs.experiment_cache import read_record
from envs.store import Store
sys.setswitchinterval(1e-5)
together = threading.Barrier(8)
def reader():
    together.wait()
    read_record(Store(sys.argv[1]), sys.argv[2])
threads = [threading.Thread(target=reader) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_the_first_records_of_a_process_can_be_read_by_many_threads_at_once(counting, tmp_path):
    CachedRunner(counting, tmp_path / "cache").run(TASK, FILES)
    name = next(str(file.relative_to(tmp_path / "cache")) for file in (tmp_path / "cache").rglob("*.json"))
    readers = [subprocess.Popen([sys.executable, "-c", READERS, str(tmp_path / "cache"), name]) for _ in range(3)]
    assert [reader.wait() for reader in readers] == [0, 0, 0], "msgspec's race over a type that was never decoded"


def test_one_that_dies_leaves_its_place_to_the_next(counting, tmp_path):
    class Dying(Counting):
        def run(self, task, files):
            os._exit(1)

    fork = multiprocessing.get_context("fork")
    dying = fork.Process(target=CachedRunner(Dying(tmp_path / "none"), tmp_path / "cache").run, args=(TASK, FILES))
    dying.start()
    dying.join()
    assert CachedRunner(counting, tmp_path / "cache").run(TASK, FILES).origin is Origin.RUN


def test_a_failure_of_the_sandbox_is_not_kept(counting, tmp_path, monkeypatch):
    cached = CachedRunner(counting, tmp_path / "cache")
    with monkeypatch.context() as patch, pytest.raises(SandboxFailure):
        patch.setattr(Counting, "run", lambda *_: (_ for _ in ()).throw(SandboxFailure("the engine died")))
        cached.run(TASK, FILES)
    assert cached.run(TASK, FILES).origin is Origin.RUN


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.OUT_OF_MEMORY])
def test_what_a_busy_machine_can_bring_about_is_tried_once_more_before_it_is_kept(tmp_path, outcome):
    class Busy(Counting):
        def run(self, task, files):
            experiment = super().run(task, files)
            return dataclasses.replace(experiment, outcome=outcome) if self.runs in self.busy else experiment

    for name, busy, origins in (
        ("twice", (1, 2), [Origin.RUN, Origin.RUN, Origin.CACHE]),
        ("once", (1,), [Origin.RUN, Origin.RUN, Origin.CACHE]),
    ):
        runner = Busy(tmp_path / f"{name} tally")
        runner.busy = busy
        found = [CachedRunner(runner, tmp_path / name).run(TASK, FILES) for _ in origins]
        assert [one.origin for one in found] == origins
        assert found[-1].outcome is (outcome if 2 in busy else Outcome.EDITED)


def test_a_damaged_record_is_run_again_and_reported(counting, tmp_path, caplog):
    cached = CachedRunner(counting, tmp_path / "cache")
    cached.run(TASK, FILES)
    (record,) = (tmp_path / "cache").rglob("*.json")
    record.write_text(record.read_text()[:20])
    assert cached.run(TASK, FILES).origin is Origin.RUN and record.name in caplog.text
    assert cached.run(TASK, FILES).origin is Origin.CACHE


def test_any_fsspec_path_serves(counting):
    cached = CachedRunner(counting, "memory://experiments")
    assert [cached.run(TASK, FILES).origin for _ in range(2)] == [Origin.RUN, Origin.CACHE]


def test_the_simulated_backend_answers_from_records_and_says_so(counting, tmp_path):
    recording = CachedRunner(counting, tmp_path / "cache")
    texts = ["a", "bb", "ccc"]
    for text in texts:
        recording.run(TASK, {"train.py": text})
    simulated = SimulatedRunner(tmp_path / "cache", PLENTY, speed=0.0)
    known = [simulated.run(TASK, {"train.py": text}) for text in texts]
    assert [one.score for one in known] == [1.0, 2.0, 3.0]
    others = [simulated.run(TASK, {"train.py": f"new {i}"}) for i in range(40)]
    assert {one.score for one in others} == {1.0, 2.0, 3.0} and {one.origin for one in others} == {Origin.SIMULATED}
    assert simulated.run(TASK, {"train.py": "new 0"}).score == others[0].score
    assert counting.runs == 3


def test_a_simulated_experiment_takes_its_recorded_time_and_its_share_of_the_machine(counting, tmp_path):
    CachedRunner(counting, tmp_path / "cache").run(TASK, FILES)
    simulated = SimulatedRunner(tmp_path / "cache", Capacity(cpus=1, memory_mb=1e6), speed=0.04)
    started = time.monotonic()
    threads = [threading.Thread(target=simulated.run, args=(TASK, FILES)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started >= 3 * 2.5 * 0.04


@pytest.mark.slow
def test_a_thousand_simulated_experiments_share_a_node_as_real_ones_would(counting, tmp_path):
    CachedRunner(counting, tmp_path / "cache").run(TASK, FILES)
    simulated, most = SimulatedRunner(tmp_path / "cache", Capacity(cpus=16, memory_mb=1e6), speed=0.001), 0

    def run(number: int) -> Experiment:
        nonlocal most
        most = max(most, simulated.running)
        return simulated.run(TASK, {"train.py": f"edit {number}"})

    with ThreadPoolExecutor(64) as threads:
        results = list(threads.map(run, range(1000)))
    assert len(results) == 1000 and {one.origin for one in results} == {Origin.SIMULATED}
    assert 8 <= most <= 16 and simulated.running == 0 and counting.runs == 1


def test_a_task_without_records_is_named(tmp_path):
    with pytest.raises(TaskError, match=r"toy.*sandbox\.recorded"):
        SimulatedRunner(tmp_path, PLENTY).run(TASK, FILES)
