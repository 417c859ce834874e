"""Images of tasks: what a task's Dockerfile makes, built by a Docker Engine once for each content of its folder.

Invariants: an image's tag is the hash of that folder, and only an image that sandboxes can run in has one; what is
taken out of an image is plain files, so that no link of it leads anywhere on the host.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

import docker
from docker.errors import BuildError, DockerException, ImageNotFound
from filelock import FileLock

from envs.errors import UserError

log = logging.getLogger(__name__)

REPOSITORY = "mlagent-task"
SECONDS = 600.0
"""That the engine may be silent while it builds."""
NEEDED = {
    "python3": ["-I", "-c", "import sys; sys.exit(sys.version_info < (3, 9))"],
    "bash": ["-c", "exit"],
}  # fmt: skip
"""Program → arguments with which it tells whether sandboxes can use it."""


class ImageError(UserError):
    """An image that cannot be had or used; the message says why, and its caller whose it is."""


def engine() -> docker.DockerClient:
    """Raises ImageError if none answers."""
    try:
        client = docker.from_env(timeout=SECONDS)
        client.ping()
    except (DockerException, OSError) as error:
        raise ImageError(f"no Docker Engine answers ({error})") from error
    return client


def built(client: docker.DockerClient, folder: Path) -> str:
    """Id of the image that folder/Dockerfile makes, built now if it is not there; what it is made from is pulled.

    Raises:
        ImageError: it cannot be built, or no sandbox can run in it.
    """
    tag = _digest(folder)
    with FileLock(Path(tempfile.gettempdir()) / f"mlagent-task-image-{os.getuid()}.lock"):  # one build per machine
        try:
            with contextlib.suppress(ImageNotFound):
                return client.images.get(f"{REPOSITORY}:{tag}").id
            log.warning("building the image %s:%s of %s (once)", REPOSITORY, tag, folder)
            image, _ = client.images.build(path=str(folder), rm=True)
            for program, asked in NEEDED.items():
                _require(client, image.id, program, asked)
            image.tag(REPOSITORY, tag)
        except (BuildError, DockerException, OSError) as error:
            raise ImageError(f"its image cannot be built: {_line(error)}") from error
    return image.id


def _require(client: docker.DockerClient, image: str, program: str, asked: list[str]) -> None:
    try:
        client.containers.run(image, asked, entrypoint=[program], network_mode="none", remove=True)
    except (DockerException, OSError) as error:
        raise ImageError(
            f"its image does not run {program}, which sandboxes need on its PATH (of python3, 3.9 or later): "
            f"{_line(error)}"
        ) from error


def workdir(client: docker.DockerClient, image: str) -> str:
    """Its working folder."""
    return client.images.get(image).attrs["Config"].get("WorkingDir") or "/"


def copy(client: docker.DockerClient, image: str, place: str, target: Path) -> None:
    """Fill the new folder `target` with the plain files of a folder in the image.

    Raises:
        ImageError: there is no such folder.
    """
    target.mkdir()
    try:
        container = client.containers.create(image, ["true"])  # it is never started
        try:
            chunks, _ = container.get_archive(place)
            with tempfile.TemporaryFile() as archive:
                archive.writelines(chunks)
                archive.seek(0)
                _unpack(archive, target)
        finally:
            container.remove(force=True)
    except (DockerException, OSError, tarfile.TarError) as error:
        raise ImageError(f"{place} cannot be read in its image: {_line(error)}") from error


def _unpack(archive: tempfile._TemporaryFileWrapper, target: Path) -> None:
    with tarfile.open(fileobj=archive) as entries:
        for entry in entries:
            _, *parts = PurePosixPath(entry.name).parts  # the first is the folder itself
            place = target.joinpath(*parts)
            if ".." in parts or not (entry.isdir() or entry.isreg() or entry.islnk()):
                continue
            if entry.isdir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with entries.extractfile(entry) as content, place.open("wb") as file:
                shutil.copyfileobj(content, file)
            place.chmod(0o755 if entry.mode & 0o100 else 0o644)


def _digest(folder: Path) -> str:
    """Of the names, contents and permissions of its files, and of where links lead."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(f"{path.relative_to(folder)}\0{path.lstat().st_mode:o}\0".encode())
        if path.is_symlink():
            found.update(os.fsencode(os.readlink(path)))
        elif path.is_file():
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
