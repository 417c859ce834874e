"""What an experiment sees of the host where no image is used: one list of mounts, for bubblewrap and for gVisor alike.

A read-only system, Python's own folders, the task (read-only), the workspace and an empty /tmp; no home, no answers.
Invariant: of the host's installed packages it has only those that are chosen, without the data that they bundle unless
these are asked for.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from envs.records import Limits
from envs.sandbox import runner
from envs.sandbox.base import MOUNTED_TASK, Folders, environment
from envs.sandbox.packages import Packages

SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime")
SHOWN_PACKAGES = "/packages"
RUN = ["-s", "-P", "-c", Path(runner.__file__).read_text()]
"""What Python is told, to be the runner: as by -I, but for PYTHONPATH, which the script's own worker processes need as
well."""


@dataclass(frozen=True)
class Mount:
    """One entry; later ones lie over earlier ones."""

    target: str
    source: str = ""
    """Empty: an empty folder in memory."""
    writable: bool = False
    size_mb: int = 0
    """Of a writable folder in memory."""


def mounts(folders: Folders, limits: Limits, packages: Packages, bundled_data: bool = False) -> list[Mount]:
    """In order; packages: those that are shown; bundled_data: with the data sets that they bundle."""
    base = Path(sys.base_prefix)
    bases = [] if base.is_relative_to("/usr") else [base]
    installed = [*base.glob("lib/python3*/*-packages"), *Path("/usr").glob("lib/python3*/*-packages"),
                 *Path("/usr/local").glob("lib/python3*/*-packages")]  # fmt: skip
    return [
        *(Mount(folder, folder) for folder in SYSTEM if Path(folder).exists()),
        *(Mount(str(folder), str(folder)) for folder in bases),
        *(Mount(str(folder)) for folder in dict.fromkeys(installed)),
        *package_mounts(packages, bundled_data),
        *(Mount(folder, writable=True, size_mb=limits.disk_mb) for folder in runner.SCRATCH),
        Mount(MOUNTED_TASK, str(folders.shown)),
        Mount("/workspace", str(folders.workspace), writable=True),
        *(Mount(target, str(folder), writable) for target, folder, writable in folders.places),
    ]


def package_mounts(packages: Packages, bundled_data: bool) -> list[Mount]:
    """Of the packages alone."""
    shown = packages.shown(bundled_data)
    return [Mount(f"{SHOWN_PACKAGES}/{name}".rstrip("/"), str(source or "")) for name, source in shown]


def command() -> list[str]:
    """The runner's command line."""
    python = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return [str(python), *RUN]


def variables(limits: Limits) -> dict[str, str]:
    own = environment(limits)
    # Commands find the Python that scripts run in before the system's, which has other packages.
    return {**own, "PATH": f"{sys.base_prefix}/bin:{own['PATH']}", "PYTHONPATH": SHOWN_PACKAGES}
