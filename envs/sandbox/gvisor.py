"""The gVisor backend: the experiment's system calls are answered by `runsc`, a kernel in user space, not by the host's.

It needs no Docker Engine and no privileges: as an ordinary user `runsc` runs rootless, so it serves inside Kubernetes
pods. `runsc` gets an OCI bundle with the view of `host_view`. (`ray.experimental.sandbox` drives `runsc` as well, but
mounts its root as EROFS, which Debian's `runsc` lacks, and experiments must start without Ray.) It knows neither a
limit on processes nor one for the experiment's memory as a whole: the runner counts processes, each process has its own
memory limit, and a control group limits `runsc` itself where the host allows. CPU is limited there as well.
Elsewhere the host looks at the memory of `runsc` (`weighed`).
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envs.sandbox import cgroup, devices, host_view
from envs.sandbox.base import Folders, Kind, SandboxFailure
from envs.sandbox.packages import OwnPackages, Packages
from envs.sandbox.pipe import PipeChannel
from envs.sandbox.weighed import Weighed

INSTALL = "install gVisor (`apt-get install runsc`, or https://gvisor.dev/docs/user_guide/install)"
KERNEL_MB = 256
"""Memory of gVisor's own kernel."""
START_SECONDS = 20.0
RUNNER_CAPABILITIES = [
    "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_CHOWN", "CAP_KILL", "CAP_DAC_OVERRIDE", "CAP_FOWNER",
    "CAP_SYS_RESOURCE",
]  # fmt: skip
"""To run each experiment as another user without privileges, end it, and clean up after it."""


class GvisorBackend:
    """Sandboxes by `runsc`."""

    name = "gvisor"
    guarded = True
    maps_root = os.getuid() != 0
    """Rootless `runsc` shows our user as 0, and files can belong to no other."""

    def __init__(self, packages: Packages | None = None, bundled_data: bool = False):
        if not shutil.which("runsc"):
            raise SandboxFailure(f"the gvisor sandbox needs `runsc`, and there is none: {INSTALL}")
        try:
            with tempfile.TemporaryDirectory(dir="/tmp") as folder:
                command = [*_runsc(Path(folder)), "--network=none", "do", "true"]
                tried = subprocess.run(
                    command, capture_output=True, text=True, env=_environment(), timeout=START_SECONDS
                )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SandboxFailure(f"`runsc` does not work here: {error}") from error
        if tried.returncode:
            raise SandboxFailure(f"`runsc` does not work here: {(tried.stderr or tried.stdout).strip()[-500:]}")
        self._packages, self._data = packages or OwnPackages(), bundled_data
        self.image = self._packages.pins

    def open(self, folders: Folders, kind: Kind, uid: int) -> PipeChannel:
        limits, cards = kind.limits, devices.of(kind.gpus)
        if cards:
            _require_nvproxy()
        bundle = folders.workspace.parent / "bundle"
        (bundle / "root").mkdir(parents=True)
        (bundle / "config.json").write_text(json.dumps(_config(folders, kind, self._packages, self._data, cards)))
        name, runsc = f"mlagent-{uid}-{folders.name}", _runsc(bundle)
        own_mb = self._packages.runner_mb + KERNEL_MB
        # Threads of gVisor's own kernel count as processes, so that those have no limit here.
        made = cgroup.make(folders.name, limits.memory_mb + own_mb, limits.cpus, processes=None)
        group = made or Weighed(limits.memory_mb + own_mb)

        def ended() -> None:
            subprocess.run([*runsc, "delete", "--force", name], capture_output=True, timeout=START_SECONDS)

        options = ["--network=none", *(["--nvproxy"] if cards else [])]
        command = [*runsc, *options, "run", "--bundle", str(bundle), name]
        return PipeChannel(
            f"the gvisor sandbox ({INSTALL})", command, group, own_mb, contained=False, ended=ended, env=_environment()
        )


def _runsc(folder: Path) -> list[str]:
    rootless = [] if os.getuid() == 0 else ["--rootless"]
    return ["runsc", *rootless, "--ignore-cgroups", "--root", str(folder / "state")]


@functools.cache
def _require_nvproxy() -> None:
    """Raises SandboxFailure where gVisor has no way to cards, as before 2023."""
    known = subprocess.run(["runsc", "flags"], capture_output=True, text=True, env=_environment(), check=False)
    if "-nvproxy" not in known.stdout + known.stderr:
        raise SandboxFailure(
            "a task asks for a GPU, and this `runsc` has no nvproxy to give it one: install gVisor of 2024 or later "
            "(https://gvisor.dev/docs/user_guide/gpu), or use sandbox.backend=docker or process"
        )


def _environment() -> dict[str, str]:
    return {**os.environ, "TMPDIR": "/tmp"}  # of runsc, whose own user may not see ours


def _config(
    folders: Folders, kind: Kind, packages: Packages, bundled_data: bool, cards: Mapping[str, Path]
) -> dict[str, Any]:
    """The OCI runtime configuration."""
    return {
        "ociVersion": "1.0.0",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},  # of gVisor's kernel, not of the host's; the runner becomes another
            "args": host_view.command(),
            "env": [f"{name}={value}" for name, value in host_view.variables(kind.limits).items()],
            "cwd": "/workspace",
            "noNewPrivileges": True,
            "capabilities": {name: RUNNER_CAPABILITIES for name in ("bounding", "effective", "permitted")},
        },
        "root": {"path": "root", "readonly": True},
        "hostname": "sandbox",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "dev", "source": "dev"},
            *map(_oci, host_view.mounts(folders, kind.limits, packages, bundled_data)),
        ],
        "linux": {
            "namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount")],
            "devices": [_device(target, device) for target, device in cards.items()],
        },
    }


def _device(target: str, device: Path) -> dict[str, Any]:
    number = device.stat().st_rdev
    return {
        "path": target, "type": "c", "major": os.major(number), "minor": os.minor(number), "fileMode": 0o666,
        "uid": 0, "gid": 0,
    }  # fmt: skip


def _oci(mount: host_view.Mount) -> dict:
    if mount.source:
        options = ["rbind", "rw" if mount.writable else "ro"]
        return {"destination": mount.target, "type": "bind", "source": mount.source, "options": options}
    options = [f"size={mount.size_mb}m", "mode=1777"] if mount.writable else ["ro"]
    return {"destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options}
