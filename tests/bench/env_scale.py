"""Experiments per second against how many run at once: `python tests/bench/env_scale.py [--json]`.

Four tasks in turn, on sandboxes that are warm. Scripts that sleep stand for cores that this machine does not have: what
they leave of a straight line from one at once is what everything beside the scripts costs. Small scikit-learn scripts
show what the cores that are there achieve, against plain `python3` processes, as many at once as there are cores, and
that more at once than cores are not slower. Last, what restoring and grading take in a process whose interpreter is
busy, as an actor's is that feeds an engine: with Python's own time of switching threads, and with that of actors. Every
figure is measured in this run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import env_step
from rich.console import Console
from rich.table import Table

from actors.explorer import SWITCH_SECONDS
from envs import machine
from envs.admission import Capacity
from envs.experiments import SandboxRunner
from envs.grading import grade
from envs.records import Outcome, Task
from envs.sandbox import SandboxFailure, SandboxPool
from envs.workspace import restore

AT_ONCE = (1, 2, 4, 8, 16)
BACKENDS = ("docker", "process")
TASKS = 4
SLEEPING = """import time

time.sleep({seconds})
open("submission.csv", "w").write("score\\n1\\n")
"""
ROUNDS = 4
"""Sleeping experiments of each that run at once."""
SMALL = 120
"""Small experiments at each concurrency."""
START_SECONDS = 300.0
SCRIPT_SECONDS = 0.2
"""So long each thread leaves the interpreter alone between two experiments."""
INTERVALS = (0.005, SWITCH_SECONDS)
"""Seconds after which a thread must leave the interpreter to others: Python's own, and an actor's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--backends", nargs="+", default=BACKENDS, help="default: docker process")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long sleeping scripts sleep (default: 1)")
    arguments = parser.parse_args()
    found = {"cores": machine.cores(), "seconds": arguments.seconds, "backends": {}, "missing": {}}
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # experiments run as another user
        tasks = [env_step.make_task(Path(folder) / str(number)) for number in range(TASKS)]
        found["python3"] = plain(tasks[0], max(1, int(found["cores"])))
        found["busy"] = {str(interval): beside_busy(tasks[0], Path(folder), interval) for interval in INTERVALS}
        for backend in arguments.backends:
            try:
                pool = SandboxPool(backend, warm=0)
            except SandboxFailure as reason:
                found["missing"][backend] = str(reason)
                continue
            found["backends"][backend] = scale(pool, tasks, arguments.seconds)
    show(found)
    if arguments.json:
        print(json.dumps(found))


def scale(pool: SandboxPool, tasks: list[Task], seconds: float) -> dict[str, object]:
    """Experiments per second at each concurrency, and sandboxes started, by kind of script."""
    runner = SandboxRunner(pool, Capacity(cpus=max(AT_ONCE), memory_mb=1e6))
    try:
        started = time.perf_counter()
        runner.expect(tasks)
        while pool.idle < max(AT_ONCE):
            assert time.perf_counter() - started < START_SECONDS, "the sandboxes do not start"
            time.sleep(0.05)
        warm_seconds = time.perf_counter() - started
        sleeping = SLEEPING.format(seconds=seconds)
        rates = {
            "sleeping": {n: rate(runner, tasks, sleeping, n, ROUNDS * n) for n in AT_ONCE},
            "small": {n: rate(runner, tasks, env_step.SCRIPT, n, SMALL) for n in AT_ONCE},
        }
        return {"rates": rates, "starts": pool.starts, "warm_seconds": warm_seconds}
    finally:
        runner.close()


def rate(runner: SandboxRunner, tasks: list[Task], script: str, at_once: int, number: int) -> float:
    """Experiments per second: `number` of the same script on all tasks in turn."""

    def run(position: int) -> None:
        task = tasks[position % len(tasks)]
        result = runner.run(task, {task.script: script})
        assert result.outcome is Outcome.EDITED, result.log

    return per_second(run, at_once, number)


def beside_busy(task: Task, folder: Path, interval: float) -> dict[str, float]:
    """Mean seconds of restoring and of grading, sixteen at a time, and rounds/s of a thread that keeps Python busy."""
    before, rounds, over, times = sys.getswitchinterval(), 0, threading.Event(), []

    def keep_busy() -> None:
        nonlocal rounds
        while not over.is_set():
            rounds += sum(1 for _ in range(1000)) // 1000

    def experiments(number: int) -> None:
        workspace = folder / f"busy-{number}"
        workspace.mkdir(exist_ok=True)
        for _ in range(ROUNDS):
            time.sleep(SCRIPT_SECONDS)
            started = time.perf_counter()
            restore(task, {task.script: env_step.SCRIPT}, workspace)
            restored = time.perf_counter()
            (workspace / "submission.csv").write_text("score\n1\n")
            written = time.perf_counter()
            grade(task, workspace)
            times.append((restored - started, time.perf_counter() - written))

    busy = threading.Thread(target=keep_busy)
    with ThreadPoolExecutor(max(AT_ONCE)) as threads:
        list(threads.map(experiments, range(max(AT_ONCE))))  # starts as many graders
        times.clear()
        sys.setswitchinterval(interval)
        try:
            busy.start()
            started = time.perf_counter()
            list(threads.map(experiments, range(max(AT_ONCE))))
            speed = rounds / (time.perf_counter() - started)
        finally:
            over.set()
            busy.join()
            sys.setswitchinterval(before)
    restoring, grading = (statistics.mean(column) for column in zip(*times, strict=True))
    return {"restore": restoring, "grade": grading, "busy_rounds_per_second": speed}


def plain(task: Task, at_once: int) -> float:
    """The small script, each in a Python of its own."""
    return per_second(lambda _: env_step.python(task), at_once, 10 * at_once)


def per_second(run: Callable[[int], object], at_once: int, number: int) -> float:
    with ThreadPoolExecutor(at_once) as threads:
        list(threads.map(run, range(at_once)))
        started = time.perf_counter()
        list(threads.map(run, range(number)))
        return number / (time.perf_counter() - started)


def show(found: dict) -> None:
    console, cores = Console(), found["cores"]
    sleeping = f"sleeping {found['seconds']:g} s"
    table = Table(f"experiments/s on {cores:g} cores", "script", *(f"{n} at once" for n in AT_ONCE), "starts")
    for backend, measured in found["backends"].items():
        for name, rates in measured["rates"].items():
            line = [f"{rates[n]:.1f}" for n in AT_ONCE]
            table.add_row(backend, sleeping if name == "sleeping" else "small", *line, str(measured["starts"]))
    console.print(table)
    table = Table("", *(f"{n} at once" for n in AT_ONCE))
    for backend, measured in found["backends"].items():
        rates = measured["rates"]
        share = [f"{100 * rates['sleeping'][n] / n / rates['sleeping'][1]:.0f} %" for n in AT_ONCE]
        table.add_row(f"{backend}: sleeping, of a straight line", *share)
        table.add_row(f"{backend}: small, × python3", *(f"{rates['small'][n] / found['python3']:.1f}" for n in AT_ONCE))
        per_two = [f"{rates['small'][n] * 2 / cores:.0f}/s" for n in AT_ONCE]
        table.add_row(f"{backend}: small, per two cores", *per_two)
    console.print(table)
    table = Table("beside a busy interpreter, 16 at once", "restore", "grade", "what else it does")
    for interval, measured in found["busy"].items():
        speed = measured["busy_rounds_per_second"] / found["busy"][str(INTERVALS[0])]["busy_rounds_per_second"]
        shown = [f"{1000 * measured[part]:.1f} ms" for part in ("restore", "grade")]
        table.add_row(f"threads switch after {1000 * float(interval):g} ms", *shown, f"{100 * speed:.0f} %")
    console.print(table)
    console.print(f"plain python3, {int(cores)} at once: {found['python3']:.1f}/s")
    for backend, reason in found["missing"].items():
        console.print(f"not measured: {backend}: {reason}")


if __name__ == "__main__":
    main()
