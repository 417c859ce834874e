"""The sandbox image: built once per recipe, from a registry's base image or, where none is reachable, from Debian.

The image holds the same versions of the packages below as the environment that builds it, so scores agree between
backends. Invariants: the image's tag is the hash of its recipe; an image never holds the bundled data sets that tasks
are made from.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import docker
from docker.errors import BuildError, DockerException, ImageNotFound

from envs.sandbox.base import BUNDLED_DATA, SandboxFailure

log = logging.getLogger(__name__)

PACKAGES = (
    "numpy", "pandas", "scikit-learn", "scipy", "joblib", "threadpoolctl", "narwhals", "python-dateutil", "six",
    "cloudpickle",
)  # fmt: skip
DOCKERFILE = Path(__file__).parent.parent / "images" / "Dockerfile"


def ensure(engine: docker.DockerClient) -> str:
    """Tag of the sandbox image in `engine`, built now if it is not there.

    Raises:
        SandboxFailure: it can be built in neither way; the message has both reasons.
    """
    requirements = "".join(f"{name}=={importlib.metadata.version(name)}\n" for name in PACKAGES)
    recipe = DOCKERFILE.read_text() + requirements + Path(__file__).read_text()
    tag = f"mlagent-sandbox:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    try:
        engine.images.get(tag)
        return tag
    except ImageNotFound:
        log.warning("building the sandbox image %s (once)", tag)
    with tempfile.TemporaryDirectory() as folder:
        try:
            _from_registry(engine, tag, requirements, Path(folder))
        except (BuildError, DockerException) as unreachable:
            if os.getuid() != 0 or not shutil.which("debootstrap"):
                raise SandboxFailure(
                    f"the sandbox image cannot be built: its base image is not to be had ({unreachable}), and building "
                    "it from Debian packages needs root and `apt-get install debootstrap`"
                ) from unreachable
            _from_debian(engine, tag, requirements, Path(folder))
    return tag


def _from_registry(engine: docker.DockerClient, tag: str, requirements: str, context: Path) -> None:
    shutil.copy(DOCKERFILE, context)
    (context / "requirements.txt").write_text(requirements)
    engine.images.build(path=str(context), tag=tag, rm=True)


def _from_debian(engine: docker.DockerClient, tag: str, requirements: str, folder: Path) -> None:
    """A minimal system of this machine's own release, with the packages installed by the host's pip."""
    root = folder / "root"
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    _run("debootstrap", "--variant=minbase", "--include=python3", release, str(root))
    minor = _run("chroot", str(root), "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
    listed = folder / "requirements.txt"
    listed.write_text(requirements)
    packages = root / f"usr/local/lib/python{minor}/dist-packages"
    _run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:",
        f"--python-version={minor}", "--target", str(packages), "-r", str(listed),
    )  # fmt: skip
    for useless in (*(packages / data for data in BUNDLED_DATA), root / "var/cache/apt", root / "usr/share/doc"):
        shutil.rmtree(useless, ignore_errors=True)
    archive = folder / "root.tar"
    _run("tar", "-C", str(root), "-cf", str(archive), ".")
    engine.api.import_image_from_file(str(archive), repository=tag.split(":")[0], tag=tag.split(":")[1])


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SandboxFailure(f"building the sandbox image: `{' '.join(command[:3])} …` failed: {done.stderr[-2000:]}")
    return done.stdout
