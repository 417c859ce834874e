"""How `make train` ends its Ray head and its job, with a small script in the place of training."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

ENDING = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    print("training", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    time.sleep(5)
    pathlib.Path(sys.argv[1]).touch()
    sys.exit(130)
"""
LAUNCHER = """
import signal, sys
from pathlib import Path
from cluster.head import Head
from cluster.quickstart import attend, connect
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background, where tests may run
with Head() as head:
    client = connect(head)
    from cluster.job import Job
    print(head.token_file.parent, flush=True)
    sys.exit(attend(Job(client, sys.argv[1], {}), Path("nowhere")))
"""


@contextlib.contextmanager
def launched(entry: str, output: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """A launcher whose job is running, and the folder that names its Ray processes."""
    with output.open("w") as file:
        launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, entry], stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while "training" not in output.read_text().splitlines():
            assert launcher.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.2)
        yield launcher, next(line for line in output.read_text().splitlines() if "mlagent-ray-" in line)
    finally:
        launcher.kill()
        launcher.wait()


def processes(of: str) -> list[str]:
    """Command lines of the processes that name a folder in their command or environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            named = [*process.cmdline(), *process.environ().values()]
            if process.status() != psutil.STATUS_ZOMBIE and any(of in text for text in named):
                found.append(" ".join(process.cmdline()))
    return found


def gone(of: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while processes(of):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def test_ctrl_c_lets_the_job_end_itself_and_leaves_nothing(tmp_path):
    script, mark, output = tmp_path / "ending.py", tmp_path / "ended", tmp_path / "output"
    script.write_text(ENDING)
    with launched(f"exec {sys.executable} {script} {mark}", output) as (launcher, folder):
        assert processes(folder)
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(60) == 130
        assert mark.exists(), "the job was killed before it had ended its parts"
        assert "interrupted" in output.read_text()
        assert gone(folder, 30), processes(folder)
        assert not Path(folder).exists()


def test_a_killed_launcher_takes_its_cluster_and_job_along(tmp_path):
    script = tmp_path / "ending.py"
    script.write_text(ENDING)
    with launched(f"exec {sys.executable} {script} {tmp_path / 'ended'}", tmp_path / "output") as (launcher, folder):
        launcher.kill()
        assert gone(folder, 30), processes(folder)
        shutil.rmtree(folder)
