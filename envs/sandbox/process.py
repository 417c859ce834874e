"""The embedded backend: Linux namespaces through bubblewrap, for machines without a container engine.

An experiment sees a read-only system, Python's own folders, its task (read-only), its workspace and an empty /tmp, and
no network, no other process, no home and no answers. It is weaker than a container: memory is limited per process
(RLIMIT_DATA and RLIMIT_AS), not per experiment, and CPU time is not limited. Invariant: of the host's installed
packages it shows only those of `packages.PACKAGES`, without the data that they bundle.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

from envs.records import Task
from envs.sandbox import packages, runner
from envs.sandbox.base import SandboxFailure, environment
from envs.workspace import MOUNTED_TASK

SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime")
SHOWN_PACKAGES = "/packages"
INSTALL = "install bubblewrap (`apt-get install bubblewrap`) or start a Docker Engine"


class ProcessBackend:
    """Namespaces by `bwrap`."""

    name = "process"
    contained = False

    def __init__(self) -> None:
        if not shutil.which("bwrap"):
            raise SandboxFailure(f"the process sandbox needs bubblewrap, and there is no `bwrap`: {INSTALL}")
        self.image = packages.requirements()

    def open(self, task: Task, workspace: Path, uid: int, gpus: tuple[int, ...]) -> PipeChannel:
        if gpus:
            raise SandboxFailure(f"task {task.id} asks for a GPU, which the process sandbox cannot give: use docker")
        python = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
        # As -I, but for PYTHONPATH, which the script's own worker processes need as well.
        return PipeChannel([*self._bwrap(task, workspace), str(python), "-s", "-P", "-c", _source()])

    def _bwrap(self, task: Task, workspace: Path) -> list[str]:
        base = Path(sys.base_prefix)
        bases = [] if base.is_relative_to("/usr") else [base]
        installed = [*base.glob("lib/python3*/*-packages"), *Path("/usr").glob("lib/python3*/*-packages"),
                     *Path("/usr/local").glob("lib/python3*/*-packages")]  # fmt: skip
        hidden = [str(folder) for folder in dict.fromkeys(installed)]
        data = [f"{SHOWN_PACKAGES}/{folder}" for folder in packages.BUNDLED_DATA]
        settings = {**environment(task.limits), "PYTHONPATH": SHOWN_PACKAGES}
        arguments = [
            ["bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"],
            # As root the runner drops to the slot's own user, since root is exempt from the limit on processes.
            ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
            if os.getuid() == 0
            else ["--unshare-user"],
            ["--as-pid-1", "--new-session", "--clearenv", "--hostname", "sandbox"],
            *(["--ro-bind-try", folder, folder] for folder in SYSTEM),
            *(["--perms", "0755", "--dir", str(parent)] for folder in bases for parent in reversed(folder.parents)),
            *(["--ro-bind", str(folder), str(folder)] for folder in bases),
            *(["--tmpfs", folder, "--remount-ro", folder] for folder in hidden),
            ["--perms", "0755", "--dir", SHOWN_PACKAGES],
            *(["--ro-bind", str(top), f"{SHOWN_PACKAGES}/{top.name}"] for top in packages.locations()),
            *(["--tmpfs", folder, "--remount-ro", folder] for folder in data),
            ["--proc", "/proc", "--dev", "/dev"],
            *(["--perms", "1777", "--size", str(task.limits.disk_mb << 20), "--tmpfs", f] for f in runner.SCRATCH),
            ["--ro-bind", str(task.env_dir), MOUNTED_TASK, "--bind", str(workspace), "/workspace"],
            ["--remount-ro", "/dev", "--remount-ro", "/"],
            *(["--setenv", name, value] for name, value in settings.items()),
            ["--chdir", "/workspace", "--"],
        ]
        return [word for part in arguments for word in part]


def _source() -> str:
    return Path(runner.__file__).read_text()


class PipeChannel:
    """Lines over the standard input and output of a local process."""

    def __init__(self, command: list[str]):
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        self._buffer = b""

    def send(self, line: str) -> None:
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended() from error

    def receive(self, timeout: float) -> str:
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            stream = self._process.stdout
            if not select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise SandboxFailure(f"the process sandbox did not answer in {timeout:.0f} s")
            data = os.read(stream.fileno(), 65536)
            if not data:
                raise self._ended()
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.decode()

    def _ended(self) -> SandboxFailure:
        self._process.kill()
        said = self._process.communicate()[1].decode(errors="replace").strip()
        return SandboxFailure(f"the process sandbox ended ({said or 'no message'}): {INSTALL}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            stream.close()
