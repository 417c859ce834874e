"""The embedded backend: Linux namespaces through bubblewrap, for machines without a container engine.

An experiment has no network, no other process in sight, and the view of `host_view`. Where the host allows a control
group, memory, processes and CPU are limited for the experiment as a whole; elsewhere memory is limited for each
process (RLIMIT_DATA and RLIMIT_AS) and counted for all together (`memory`), and CPU time is not limited. It shares the
host's kernel, as a container does.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from envs.sandbox import cgroup, devices, host_view
from envs.sandbox.base import Folders, Kind, SandboxFailure
from envs.sandbox.packages import OwnPackages, Packages
from envs.sandbox.pipe import PipeChannel

INSTALL = "install bubblewrap (`apt-get install bubblewrap`) or start a Docker Engine"


class ProcessBackend:
    """Namespaces by `bwrap`."""

    name = "process"
    guarded = maps_root = False

    def __init__(self, packages: Packages | None = None, bundled_data: bool = False):
        if not shutil.which("bwrap"):
            raise SandboxFailure(f"the process sandbox needs bubblewrap, and there is no `bwrap`: {INSTALL}")
        self._packages, self._data = packages or OwnPackages(), bundled_data
        self.image = self._packages.pins

    def open(self, folders: Folders, kind: Kind, uid: int) -> PipeChannel:
        limits, cards = kind.limits, devices.of(kind.gpus)
        mounts = host_view.mounts(folders, limits, self._packages, self._data)
        own_mb = self._packages.runner_mb
        # Two processes are the runner and bubblewrap.
        group = cgroup.make(folders.name, limits.memory_mb + own_mb, limits.cpus, limits.processes + 2)
        if group:  # the runner reads the kernel's count of out-of-memory kills there
            folder = "/sys/fs/cgroup/memory" if group.version == 1 else "/sys/fs/cgroup"
            mounts.append(host_view.Mount(folder, str(group.memory)))
        command = [*_bwrap(mounts, host_view.variables(limits), group is None, cards), *host_view.command()]
        return PipeChannel(f"the process sandbox ({INSTALL})", command, group, own_mb, contained=group is not None)


@functools.cache
def _no_more_users() -> list[str]:
    """The option that has the kernel refuse further user namespaces, which bubblewrap has since 0.8."""
    known = subprocess.run(["bwrap", "--help"], capture_output=True, text=True)
    return ["--disable-userns"] if "--disable-userns" in known.stdout + known.stderr else []


def _bwrap(
    mounts: list[host_view.Mount], variables: dict[str, str], counted: bool, cards: Mapping[str, Path]
) -> list[str]:
    arguments = ["bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    # As root the runner drops to the slot's own user, since root is exempt from the limit on processes.
    capabilities = ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    arguments += capabilities if os.getuid() == 0 else ["--unshare-user", *_no_more_users()]
    arguments += ["--as-pid-1", "--new-session", "--clearenv", "--hostname", "sandbox"]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    if counted:  # what is mapped of it is memory that `memory` does not see
        arguments += ["--dev-bind", "/dev/null", "/dev/zero"]
    for target, device in cards.items():
        arguments += ["--dev-bind", str(device), target]
    for mount in mounts:
        for parent in list(Path(mount.target).parents)[-2::-1]:
            arguments += ["--perms", "0755", "--dir", str(parent)]
        if mount.source:
            arguments += ["--bind" if mount.writable else "--ro-bind", mount.source, mount.target]
        elif mount.writable:
            arguments += ["--perms", "1777", "--size", str(mount.size_mb << 20), "--tmpfs", mount.target]
        else:
            arguments += ["--tmpfs", mount.target, "--remount-ro", mount.target]
    arguments += ["--remount-ro", "/dev", "--remount-ro", "/"]
    for name, value in variables.items():
        arguments += ["--setenv", name, value]
    return [*arguments, "--chdir", "/workspace", "--"]
