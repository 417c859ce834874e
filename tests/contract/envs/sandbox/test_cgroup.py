"""Control groups that root has given to an ordinary user limit what all processes of an experiment have together."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from envs.sandbox import cgroup
from tests.contract.cluster.test_ordinary_user import NOBODY, as_nobody

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root has control groups to give")
NAME = f"mlagent-given-{os.getpid()}"
UNIFIED = Path("/sys/fs/cgroup/unified")
"""Where version 2 is, beside version 1, with what controllers that has left."""
ASK = (
    """
import sys
from pathlib import Path
from envs.records import Limits
from envs.sandbox import SandboxPool
from tests.sandbox_task import execute, make_task

HOARD = """
    + "'''"
    + """
import os, time
for _ in range(9):
    if os.fork() == 0:
        held = b"x" * (100 << 20)
        time.sleep(2)
        os._exit(0)
while True: os.wait()
"""
    + "'''"
    + """
pool, task = SandboxPool("process"), make_task(Path(sys.argv[1]))
print(execute(pool, task, "import os; print(os.write(os.memfd_create('a'), bytes(9)))").output.strip())
print(execute(pool, task, HOARD, Limits(seconds=60, memory_mb=300)).status)
print(execute(pool, task, "print('fine')").output.strip())
pool.close()
"""
)


@pytest.fixture
def given() -> Iterator[list[Path]]:
    """A group of each controller that belongs to nobody."""
    folders = [parent / NAME for parent in cgroup._parents()]
    with ExitStack() as ends:
        for folder in folders:
            try:
                if cgroup._version() == 2:
                    cgroup._enable(folder.parent)
                folder.mkdir()
            except OSError as reason:
                pytest.skip(f"NOT TESTED, control groups cannot be made here: {reason}")
            ends.callback(cgroup.Cgroup.close, _Only(folder))
            for path in (folder, *folder.iterdir()):
                os.chown(path, NOBODY, NOBODY)
            if cgroup._version() == 2:
                os.setxattr(folder, cgroup.DELEGATED, b"1")
        yield folders


class _Only:
    """For `Cgroup.close`: a group, and below it those that were made in it."""

    def __init__(self, folder: Path):
        self._folder = folder

    @property
    def folders(self) -> list[Path]:
        return [*(path for path in self._folder.iterdir() if path.is_dir()), self._folder]


def test_an_ordinary_user_has_the_sum_limited_by_groups_of_his_own(given: list[Path], tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, NOBODY, NOBODY)
        join = "".join(f"echo $$ > {folder}/cgroup.procs && " for folder in given)
        inside = ["sh", "-c", f'{join}exec "$@"', "sh", *as_nobody(tmp_path)]
        run = {"env": {**os.environ, "HOME": home, "TMPDIR": home}, "capture_output": True, "text": True}
        able = subprocess.run([*inside, sys.executable, "-c", "import pytest, sklearn"], **run)
        if able.returncode:
            pytest.skip(f"NOT TESTED as an ordinary user, who cannot run {sys.executable}: {able.stderr[-200:]}")
        done = subprocess.run([*inside, sys.executable, "-c", ASK, f"{home}/task"], **run)
    if "needs bubblewrap" in done.stderr:
        pytest.skip("NOT TESTED, there is no bubblewrap")
    assert done.stdout.split() == ["9", "out_of_memory", "fine"], done.stdout + done.stderr[-2000:]
    assert not [path for folder in given for path in folder.iterdir() if path.is_dir() and path.name != cgroup.OURS]


def test_processes_move_out_of_a_group_that_is_to_limit_others(monkeypatch: pytest.MonkeyPatch) -> None:
    root = UNIFIED if (UNIFIED / "cgroup.controllers").exists() else cgroup.ROOT
    controllers = (root / "cgroup.controllers").read_text().split() if (root / "cgroup.controllers").exists() else []
    if not controllers:
        pytest.skip("NOT TESTED, there is no controller of version 2 of control groups")
    monkeypatch.setattr(cgroup, "CONTROLLERS", f"+{controllers[-1]}")
    try:
        (root / "cgroup.subtree_control").write_text(cgroup.CONTROLLERS)
        (root / NAME).mkdir()
    except OSError as reason:
        pytest.skip(f"NOT TESTED, control groups cannot be made here: {reason}")
    join = ["sh", "-c", f"echo $$ > {root}/{NAME}/cgroup.procs && echo there && exec sleep 60"]
    with subprocess.Popen(join, stdout=subprocess.PIPE, text=True) as there:
        assert there.stdout.readline() == "there\n"
        try:
            cgroup._enable(root / NAME)
            assert controllers[-1] in (root / NAME / "cgroup.subtree_control").read_text().split()
            assert (root / NAME / cgroup.OURS / "cgroup.procs").read_text().split() == [str(there.pid)]
        finally:
            there.kill()
            there.wait()
            cgroup.Cgroup.close(_Only(root / NAME))
