"""A target's mutants, each against its tests in a process of its own, forked from one that has imported the libraries.

Runs in a copy of the project: `python -m tests.mutants.worker`, with a job as JSON on stdin and a line of JSON on
stdout for each mutant. First the tests run once on the module as it is, under coverage: those that run a mutant's line
are the ones it meets, quick ones first; all of them where none is seen to run it, since what a test's own processes run
is not seen. Invariants: the module's file is the mutated one in processes that a test
starts, too; hypothesis draws the same examples for every mutant and shrinks nothing; a mutant has a limit of CPU time
and memory, and of time.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import coverage
import hypothesis
import pytest

PYTEST = ["-q", "-p", "no:cacheprovider", "-p", "no:unraisableexception", "-m", "not long"]
"""Without the plugin that collects garbage five times at the end, which takes longer than most tests."""
MORE_MEMORY = 4 << 30
"""Bytes that a mutant may map besides what the tests' libraries take."""
Json = dict[str, Any]


def main() -> None:
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda *_: sys.exit(1))
    job = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print while they are imported
    hypothesis.settings.register_profile(
        "mutants", derandomize=True, database=None, deadline=None,
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    )  # fmt: skip
    hypothesis.settings.load_profile("mutants")
    survey, _ = in_fork(lambda: run_survey(job["path"], job["tests"]), seconds=1200, cpu=1200)
    if not survey or survey["failed"]:
        print(json.dumps({"error": (survey or {}).get("failed") or "its tests crashed"}), file=out)
        return
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    for name in survey["libraries"]:
        with contextlib.suppress(BaseException):
            importlib.import_module(name)
    gc.freeze()  # so that no child copies what it only looks at
    for number, mutant in enumerate(job["mutants"]):
        print(json.dumps({"id": mutant["id"], **outcome(job["path"], mutant, survey, number)}), file=out)


def outcome(path: str, mutant: Json, survey: Json, number: int) -> Json:
    """What became of a mutant: killed (by which test), timeout, survived."""
    durations: dict[str, float] = survey["durations"]
    quick_first = sorted(durations, key=lambda test: (test != mutant["killer"], durations[test]))
    meeting = [t for t in quick_first if not set(survey["lines"].get(t, ())).isdisjoint(range(*mutant["lines"]))]
    tests = quick_first if mutant["at_import"] or not meeting else meeting
    file = Path(path)
    file.write_text(mutant["source"])
    os.utime(file, (number, number))  # no compiled file is of that time
    expected, began = sum(durations[test] for test in tests), time.monotonic()
    limits = {test: 15 + 8 * durations[test] for test in tests}
    found, in_time = in_fork(lambda: run_mutant(limits), seconds=15 + 8 * expected, cpu=int(10 + 4 * expected))
    result = {"seconds": round(time.monotonic() - began, 2), "killer": ""}
    if not in_time:
        return {**result, "outcome": "timeout"}
    if found and found["code"] == pytest.ExitCode.OK:
        return {**result, "outcome": "survived"}
    return {**result, "outcome": "killed", "killer": found["killer"] if found else ""}


def in_fork(action: Callable[[], Json], seconds: float, cpu: int) -> tuple[Json | None, bool]:
    """What it returns in a process of its own, None if that process crashed; and whether it ended in time."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.setsid()
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silence, stream)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 5))
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + MORE_MEMORY, resource.RLIM_INFINITY))
        os.close(reading)
        with contextlib.suppress(BaseException), os.fdopen(writing, "w") as answer:
            json.dump(action(), answer)
        os._exit(0)
    os.close(writing)
    parts, deadline, in_time = [], time.monotonic() + seconds, True
    try:
        while in_time := bool(select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]):
            if not (part := os.read(reading, 1 << 20)):
                break
            parts.append(part)
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    slow = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGALRM)
    with contextlib.suppress(json.JSONDecodeError):
        return json.loads(b"".join(parts)), in_time and not slow
    return None, in_time and not slow


class _Watch:
    """A pytest plugin: runs `wanted` in that order, and keeps durations and the first failure."""

    def __init__(self, wanted: Sequence[str] | None = None, began: Callable[[str], Any] = lambda test: None):
        self._wanted, self._began = wanted, began
        self.durations: dict[str, float] = {}
        self.failed = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self._wanted is not None:
            by_id = {item.nodeid: item for item in items}
            items[:] = [by_id[test] for test in self._wanted if test in by_id]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self._began(item.nodeid)
        try:
            return (yield)
        finally:
            self._began("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.durations[report.nodeid] = self.durations.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed = self.failed or report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid


def run_survey(path: str, tests: Sequence[str]) -> Json:
    """Which lines of the module each test runs, how long it takes, and the libraries that were imported."""
    measured = coverage.Coverage(data_file=None, config_file=False, include=[str(Path(path).resolve())])
    watch = _Watch(began=measured.switch_context)
    measured.start()
    code = pytest.main([*PYTEST, *tests], plugins=[watch])
    measured.stop()
    by_line = measured.get_data().contexts_by_lineno(str(Path(path).resolve()))
    lines: dict[str, list[int]] = {}
    for line, names in by_line.items():
        for name in names:
            lines.setdefault(name, []).append(line)
    ours = {entry.name for entry in Path.cwd().iterdir() if entry.is_dir()}
    libraries = [name for name in sys.modules if name.partition(".")[0] not in ours and name != "__main__"]
    failed = watch.failed or ("" if code == pytest.ExitCode.OK else f"pytest ended with {code}")
    return {"durations": watch.durations, "lines": lines, "libraries": libraries, "failed": failed}


def run_mutant(limits: dict[str, float]) -> Json:
    """What the tests find, in that order; past a test's limit the process is ended: one that hangs need not be waited
    for as long as all would take."""
    files = dict.fromkeys(test.partition("::")[0] for test in limits)
    watch = _Watch(list(limits), began=lambda test: signal.setitimer(signal.ITIMER_REAL, limits.get(test, 0.0)))
    code = pytest.main([*PYTEST, "-x", *files], plugins=[watch])
    return {"code": int(code), "killer": watch.failed}


if __name__ == "__main__":
    main()
