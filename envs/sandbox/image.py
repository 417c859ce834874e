"""The sandbox image: built once per recipe, from a registry's base image or, where none is reachable, from Debian.

The image holds the same versions of the packages below as the environment that builds it, so scores agree between
backends; or none and this environment's Python, where packages of a list are shown in it. An image of a user's own
(`own`) has to have Python and what its tasks import. Invariants: the image's tag is the hash of its recipe; an image
for tasks never holds the bundled data sets that tasks are made from.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import docker
from docker.errors import BuildError, DockerException, ImageNotFound
from filelock import FileLock

from envs import docker_engine
from envs.sandbox.base import MOUNTED_TASK, SandboxFailure
from envs.sandbox.packages import BUNDLED_DATA, Packages

log = logging.getLogger(__name__)

DOCKERFILE = Path(__file__).parent.parent / "images" / "Dockerfile"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
BASES = {
    "3.11": "python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d",
    "3.12": "python:3.12.12-slim-bookworm@sha256:593bd06efe90efa80dc4eee3948be7c0fde4134606dd40d8dd8dbcade98e669c",
    "3.13": "python:3.13.9-slim-bookworm@sha256:b685a4fa58bb19d1814d78a1ec0f0208f351452724f78b20212c984d6e124a34",
}
"""By the digests of their indexes for all architectures, as public repositories that build from them have them."""
TORCH_INDEX = "https://download.pytorch.org/whl/"
COVERED = ("/tmp", "/workspace", MOUNTED_TASK)
"""Where sandboxes have folders of their own in an image of a user's."""


def own(engine: docker.DockerClient, name: str) -> str:
    """Id of the user's image of that name: another content, another id.

    Raises:
        SandboxFailure: the engine has none, or no sandbox can run in it.
    """
    try:
        found = engine.images.get(name)
        docker_engine.require_usable(engine, found, ("python3",), COVERED, f"sandbox.image={name}")
    except ImageNotFound as error:
        raise SandboxFailure(f"the engine has no image {name!r} (sandbox.image): build or pull it there") from error
    except docker_engine.Unusable as error:
        raise SandboxFailure(str(error)) from error
    except docker_engine.UNANSWERED as error:
        raise SandboxFailure(f"sandbox.image={name} cannot be looked at: {docker_engine.line_of(error)}") from error
    return found.id


def ensure(engine: docker.DockerClient, packages: Packages) -> str:
    """Tag of the sandbox image for these packages in `engine`, built now if it is not there.

    Raises:
        SandboxFailure: it can be built in neither way; the message has both reasons.
    """
    pinned = packages.pins if packages.in_image else ""
    recipe = (
        DOCKERFILE.read_text() + BASES[PYTHON] + listed(pinned) + inspect.getsource(_from_debian) + str(BUNDLED_DATA)
    )
    tag = f"mlagent-sandbox:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    lock = Path(tempfile.gettempdir()) / f"mlagent-image-{os.getuid()}.lock"  # one build per machine
    with FileLock(lock), tempfile.TemporaryDirectory() as folder:
        try:
            engine.images.get(tag)
            return tag
        except ImageNotFound:
            log.warning("building the sandbox image %s (once, some minutes)", tag)
        try:
            _from_registry(engine, tag, pinned, Path(folder))
        except (BuildError, DockerException, OSError) as unreachable:
            if os.getuid() != 0 or not shutil.which("debootstrap"):
                raise SandboxFailure(
                    f"the sandbox image cannot be built: its base image is not to be had ({unreachable}), and building "
                    "it from Debian packages needs root and `apt-get install debootstrap`"
                ) from unreachable
            _from_debian(engine, tag, pinned, Path(folder))
    return tag


def with_bundled_data(engine: docker.DockerClient, tag: str) -> str:
    """Tag of that image with the data sets that this environment's packages bundle: for a user's own script only.

    Raises:
        SandboxFailure: the engine cannot build it.
    """
    within = Path(importlib.util.find_spec("sklearn").origin).parents[1]
    recipe = f"FROM {tag}\nUSER 0\nCOPY sklearn /tmp/sklearn\n" + "".join(
        f"RUN {command}\n" for command in (
            'at="$(python3 -c \'import sklearn; print(sklearn.__path__[0])\')" && cp -r /tmp/sklearn/. "$at/"',
            "rm -rf /tmp/sklearn",
        )
    ) + "USER 65534:65534\n"  # fmt: skip
    extended = f"{tag.partition(':')[0]}-data:{hashlib.sha256((tag + recipe).encode()).hexdigest()[:12]}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            engine.images.get(extended)
            return extended
        except ImageNotFound:
            log.warning("building the sandbox image %s, with the data sets of scikit-learn (once)", extended)
        for data in BUNDLED_DATA:
            if (within / data).is_dir():
                shutil.copytree(within / data, Path(folder) / data)
        (Path(folder) / "Dockerfile").write_text(recipe)
        try:
            engine.images.build(path=folder, tag=extended, rm=True, network_mode="none")
        except (BuildError, DockerException, OSError) as error:
            raise SandboxFailure(f"the sandbox image {extended} cannot be built from {tag}: {error}") from error
    return extended


def _from_registry(engine: docker.DockerClient, tag: str, pinned: str, context: Path) -> None:
    shutil.copy(DOCKERFILE, context)
    (context / "requirements.txt").write_text(listed(pinned))
    engine.images.build(path=str(context), tag=tag, rm=True, buildargs={"BASE": BASES[PYTHON]})


def listed(pinned: str) -> str:
    """The pins for pip, which gets the build of PyTorch that they name and no other: those for a CPU, and for each
    version of CUDA, lie in indexes of their own; PyPI's, for CUDA, would give way to one of these, as 2.13.0+cpu is a
    2.13.0 too."""
    build = re.search(r"^torch==[^+\s]+\+(\w+)$", pinned, re.MULTILINE)
    if build:
        return f"--extra-index-url {TORCH_INDEX}{build[1]}\n{pinned}"
    return re.sub(r"^torch==", "torch===", pinned, flags=re.MULTILINE)


def _from_debian(engine: docker.DockerClient, tag: str, pinned: str, folder: Path) -> None:
    """A minimal system of this machine's own release, with the packages installed by the host's pip."""
    root = folder / "root"
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    # debootstrap mounts /proc and /sys below the folder: in a mount namespace of its own they are gone if it is killed,
    # so that deleting the folder can never reach into the host's.
    _run("unshare", "--mount", "debootstrap", "--variant=minbase", "--include=python3,libgomp1", release, str(root))
    minor = _run("chroot", str(root), "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
    packages = root / f"usr/local/lib/python{minor}/dist-packages"
    if pinned:
        listed = folder / "requirements.txt"
        listed.write_text(pinned)
        _run(
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:",
            f"--python-version={minor}", "--target", str(packages), "-r", str(listed),
        )  # fmt: skip
    elif minor != PYTHON:
        raise SandboxFailure(
            f"sandbox.requirements are installed for Python {PYTHON}, and {release} has {minor}, of which the sandbox "
            "image is built where no registry is reachable: the sandboxes gvisor and process need none, and docker can "
            "have a sandbox.image"
        )
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
