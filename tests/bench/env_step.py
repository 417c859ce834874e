"""What one environment step costs: `python tests/bench/env_step.py [--json]`.

The same small scikit-learn script is run by the warm sandbox of each backend, by `docker run --rm`, by `docker exec`
into a warm container, and by a bare `python3`; then a state is restored over data of several sizes, steps are run at
several concurrencies, and submissions are graded at once and in two parts. Medians; every figure is measured in this
run.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from envs.admission import Capacity
from envs.benchmarks.loader import load
from envs.experiments import SandboxRunner
from envs.grading import grade
from envs.records import Direction, Limits, Outcome, Task
from envs.sandbox import SandboxFailure, SandboxPool
from envs.workspace import restore

SCRIPT = """import pandas as pd
from sklearn.linear_model import LogisticRegression

train = pd.read_csv("train.csv")
model = LogisticRegression(max_iter=200).fit(train[["x", "z"]], train["y"])
pd.DataFrame({"score": [model.score(train[["x", "z"]], train["y"])]}).to_csv("submission.csv", index=False)
"""
GRADER = """import pandas as pd


def get_score(folder):
    return pd.read_csv(folder + "/submission.csv")["score"][0]
"""
BACKENDS = ("docker", "gvisor", "process")
SIZES = {"1 MB": 1 << 20, "100 MB": 100 << 20, "1 GB": 1 << 30}
CONCURRENCIES = (1, 2, 4, 8)
GRADED = ("wine", "diamonds")
"""Tasks of 89 and of 26,970 answers."""
PLENTY = Capacity(cpus=64, memory_mb=1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--repeats", type=int, default=20, help="runs of which the median is taken (default: 20)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # experiments run as another user
        task = make_task(Path(folder) / "task")
        found = {"cpus": os.cpu_count(), "repeats": arguments.repeats}
        found |= steps(task, arguments.repeats)
        found["restore_seconds"] = restores(Path(folder), arguments.repeats)
        found["grade_seconds"] = {name: grades(name, Path(folder), arguments.repeats) for name in GRADED}
    show(found)
    if arguments.json:
        print(json.dumps(found))


def make_task(folder: Path) -> Task:
    (folder / "env").mkdir(parents=True)
    (folder / "scripts").mkdir()
    (folder / "env/train.py").write_text(SCRIPT)
    rows = "".join(f"{i},{i * 7 % 13},{int(i * 7 % 13 > i % 5)}\n" for i in range(500))
    (folder / "env/train.csv").write_text("x,z,y\n" + rows)
    (folder / "scripts/eval.py").write_text(GRADER)
    return Task(
        "bench", "", folder / "env", folder / "scripts", "train.py", frozenset({"train.csv"}), "accuracy",
        Direction.MAXIMIZE, "held_in", Limits(seconds=30, memory_mb=512, disk_mb=64), 1.0,
    )  # fmt: skip


def steps(task: Task, repeats: int) -> dict[str, object]:
    """Seconds per step of each way, our overhead outside the experiment, and steps per second at each concurrency."""
    seconds: dict[str, float] = {}
    overhead: dict[str, float] = {}
    rates: dict[str, dict[str, float]] = {}
    missing: dict[str, str] = {}
    image = None
    for backend in BACKENDS:
        try:
            pool = SandboxPool(backend, warm=max(CONCURRENCIES))
        except SandboxFailure as reason:
            missing[backend] = str(reason)
            continue
        image = pool.image if backend == "docker" else image
        runner = SandboxRunner(pool, PLENTY)
        seconds[f"warm {backend}"], overhead[backend] = warm(runner, task, repeats)
        rates[backend] = {str(at_once): rate(runner, task, at_once, repeats) for at_once in CONCURRENCIES}
        runner.close()
    seconds["bare python3"] = median(lambda: python(task), repeats // 4)
    if image:
        seconds["docker run --rm"] = median(lambda: docker_run(task, image), repeats // 4)
        seconds["docker exec"] = docker_exec(task, image, repeats // 4)
    return {
        "seconds_per_step": seconds, "overhead_seconds": overhead, "steps_per_second": rates, "missing": missing,
        "ratios": {
            f"{slow} / {ours}": seconds[slow] / seconds[ours]
            for ours in seconds if ours.startswith("warm ") for slow in seconds if not slow.startswith("warm ")
        },
    }  # fmt: skip


def warm(runner: SandboxRunner, task: Task, repeats: int) -> tuple[float, float]:
    """Median seconds of a whole step in a sandbox that has started, and of what is not the script's run."""
    run(runner, task)
    times = [run(runner, task) for _ in range(repeats)]
    return statistics.median(whole for whole, _ in times), statistics.median(rest for _, rest in times)


def run(runner: SandboxRunner, task: Task) -> tuple[float, float]:
    started = time.perf_counter()
    result = runner.run(task, {task.script: SCRIPT})
    whole = time.perf_counter() - started
    assert result.outcome is Outcome.EDITED, result.log
    return whole, whole - result.durations.execute


def rate(runner: SandboxRunner, task: Task, at_once: int, repeats: int) -> float:
    with ThreadPoolExecutor(at_once) as threads:
        list(threads.map(lambda _: run(runner, task), range(at_once)))  # starts as many sandboxes
        started = time.perf_counter()
        list(threads.map(lambda _: run(runner, task), range(2 * repeats)))
        return 2 * repeats / (time.perf_counter() - started)


def python(task: Task) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(task.env_dir / "train.csv", folder)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        subprocess.run([sys.executable, task.env_dir / "train.py"], cwd=folder, env=environment, check=True)


def docker_run(task: Task, image: str) -> None:
    subprocess.run(
        ["docker", "run", "--rm", *_confined(task), image, "python3", "/task/train.py"], check=True, capture_output=True
    )


def docker_exec(task: Task, image: str, repeats: int) -> float:
    name = f"mlagent-bench-{os.getpid()}"
    command = ["docker", "run", "--rm", "-d", "--name", name, *_confined(task), image, "sleep", "3600"]
    subprocess.run(command, check=True, capture_output=True)
    try:
        inside = ["docker", "exec", name, "python3", "/task/train.py"]
        return median(lambda: subprocess.run(inside, check=True, capture_output=True), repeats)
    finally:
        subprocess.run(["docker", "kill", name], check=True, capture_output=True)


def _confined(task: Task) -> list[str]:
    """As our sandboxes are, with a working folder in memory."""
    return [
        "--network=none", "--read-only", "--cap-drop=ALL", "--cpus=1", "--memory=896m", "--tmpfs=/tmp",
        "--tmpfs=/workspace:mode=1777", "--workdir=/workspace", "-e", "OMP_NUM_THREADS=1",
        "-v", f"{task.env_dir}:/task:ro", "-v", f"{task.env_dir}/train.csv:/workspace/train.csv:ro",
    ]  # fmt: skip


def restores(folder: Path, repeats: int) -> dict[str, float]:
    """Median seconds to restore an edited state over data of each size, in ten files."""
    found = {}
    workspace = folder / "workspace"
    workspace.mkdir()
    for name, size in SIZES.items():
        task = make_task(folder / name.replace(" ", ""))
        for number in range(10):
            with (task.env_dir / f"data-{number}.bin").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size // 10)
        found[name] = median(functools.partial(restore, task, {"train.py": "edited"}, workspace), repeats)
        shutil.rmtree(task.env_dir)
    return found


def grades(name: str, folder: Path, repeats: int) -> dict[str, float]:
    """Median seconds to grade what the unchanged script of a task leaves, on all answers and on both parts of them."""
    task, workspace = load(name), folder / name
    shutil.copytree(task.env_dir, workspace)
    subprocess.run([sys.executable, task.script], cwd=workspace, check=True)
    ways = {"all answers": replace(task, parts=None), "two parts": task}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(1 + max(3, repeats)):  # in turn, so that what else the machine does falls on both
        for way, of_task in ways.items():
            started = time.perf_counter()
            grade(of_task, workspace)
            times[way].append(time.perf_counter() - started)
    return {way: statistics.median(taken[1:]) for way, taken in times.items()}


def median(action: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(max(3, repeats)):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def show(found: dict) -> None:
    console = Console()
    table = Table("one step of a small scikit-learn script", "seconds", *(f"× {b}" for b in found["overhead_seconds"]))
    for name, seconds in sorted(found["seconds_per_step"].items(), key=lambda item: item[1]):
        against = [f"{seconds / found['seconds_per_step'][f'warm {b}']:.1f}" for b in found["overhead_seconds"]]
        table.add_row(name, f"{seconds:.4f}", *against)
    console.print(table)
    table = Table("backend", "overhead", *(f"{n} at once" for n in CONCURRENCIES))
    for backend, rates in found["steps_per_second"].items():
        overhead = f"{1000 * found['overhead_seconds'][backend]:.1f} ms"
        table.add_row(backend, overhead, *(f"{value:.1f}/s" for value in rates.values()))
    console.print(table)
    table = Table("data", "restore")
    for size, seconds in found["restore_seconds"].items():
        table.add_row(size, f"{1000 * seconds:.2f} ms")
    console.print(table)
    for name, seconds in found["grade_seconds"].items():
        console.print(f"grading {name}: " + ", ".join(f"{way} {1000 * t:.1f} ms" for way, t in seconds.items()))
    for backend, reason in found["missing"].items():
        console.print(f"not measured: {backend}: {reason}")


if __name__ == "__main__":
    main()
