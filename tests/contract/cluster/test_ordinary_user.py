"""The sandboxes that need no privileges keep their promises where the host process has none. (The other tests may run
as root, where control groups and user ids of our own add to them.)"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]
NOBODY = 65534
SUITES = [
    f"tests/contract/envs/{name}.py"
    for name in ("sandbox/test_sandbox", "sandbox/test_sandbox_limits", "sandbox/test_memory", "test_attacks")
]
MINUTES = 10
OPENED = """
mount --bind "$0" "$2"
mount -t tmpfs -o mode=755 none "$1"
mkdir -p "$0"
mount --bind "$2" "$0"
shift 2
exec "$@"
"""
"""In a mount namespace: shows the folder $0 below $1, which others may not enter; $2 is an empty folder."""


def as_nobody(empty: Path) -> list[str]:
    """Command prefix that gives up root, and lets nobody read an interpreter that lies in root's home."""
    base = Path(sys.base_prefix).resolve()
    closed = next((folder for folder in reversed(base.parents) if not folder.stat().st_mode & 1), None)
    opened = ["unshare", "--mount", "sh", "-ec", OPENED, str(base), str(closed), str(empty)] if closed else []
    return [*opened, "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


@pytest.mark.skipif(os.getuid() != 0, reason="without root, every test runs as an ordinary user")
@pytest.mark.timeout(MINUTES * 60)
@pytest.mark.parametrize("backend", ["process", "gvisor"])
def test_contract_and_attacks_as_an_ordinary_user(backend: str, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, NOBODY, NOBODY)
        prefix, variables = as_nobody(tmp_path), {**os.environ, "HOME": home, "TMPDIR": home}
        run = {"cwd": ROOT, "env": variables, "capture_output": True, "text": True}
        able = subprocess.run([*prefix, "sh", "-c", f"{sys.executable} -c 'import pytest, sklearn'"], **run)
        if able.returncode:
            pytest.skip(f"NOT TESTED as an ordinary user, who cannot run {sys.executable}: {able.stderr[-200:]}")
        options = ["-q", "-p", "no:cacheprovider", f"--basetemp={home}/pytest", "-k", f"[{backend}"]
        done = subprocess.run([*prefix, sys.executable, "-m", "pytest", *options, *SUITES], **run)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    if reason := re.search(r"^SKIPPED.*NOT TESTED.*", done.stdout, re.MULTILINE):
        pytest.skip(reason[0])
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 60, done.stdout[-1000:]
