"""Images of tasks: what a task's Dockerfile makes, built by a Docker Engine once for each content of its folder.

Invariants: an image's tag is the hash of that folder, of where the task says that its files are, and of this file; only
an image that sandboxes can run in has one; a build is given up at its deadline, or if the engine is silent for as long,
and whatever else waits for the engine or for another build has a deadline too; what is taken out of an image is plain
files, so that no link of it leads anywhere on the host.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import re
import shutil
import tarfile
import tempfile
import time
from pathlib import Path, PurePosixPath

import docker
from docker.errors import BuildError, ImageNotFound
from docker.models.images import Image
from filelock import FileLock, Timeout
from requests.exceptions import ReadTimeout
from urllib3.exceptions import ReadTimeoutError

from envs import docker_engine
from envs.docker_engine import UNANSWERED, ImageError, Unusable, line_of
from envs.records import Build

log = logging.getLogger(__name__)

REPOSITORY = "mlagent-task"
WAIT_SECONDS = 1800.0
"""For what other processes build."""
REFUSED_SECONDS = 300.0
"""For so long an image that was found to be unusable is not tried again."""
BUILT = re.compile(r"^Successfully built ([0-9a-f]+)$", re.MULTILINE)
_refused: dict[str, tuple[str, float]] = {}
"""Tag → why no sandbox can run in its image, and until when that holds."""


def built(client: docker.DockerClient, build: Build) -> str:
    """Id of the image that its Dockerfile makes, built now if it is not there; what it is made from is pulled.

    Raises:
        Unusable: it cannot be built, or no sandbox can run in it.
        ImageError: the engine does not answer, or other images are being built.
    """
    if not (build.folder / "Dockerfile").is_file():
        raise ImageError("it is not on this machine: MLAGENT_CACHE must name a folder that all machines have")
    tag = _digest(build.folder, build.workdir)
    try:
        if known := _known(client, tag):
            return known
        lock = Path(tempfile.gettempdir()) / f"mlagent-task-image-{os.getuid()}.lock"  # one build per machine
        with FileLock(lock, timeout=WAIT_SECONDS):
            return _known(client, tag) or _build(client, build, tag)
    except Timeout as error:
        raise ImageError(f"other images have been in the making on this machine for {WAIT_SECONDS:.0f} s") from error
    except UNANSWERED as error:
        raise ImageError(f"its image cannot be had: {line_of(error)}") from error


def _known(client: docker.DockerClient, tag: str) -> str | None:
    """Raises Unusable if it was so lately."""
    with contextlib.suppress(ImageNotFound):
        return client.images.get(f"{REPOSITORY}:{tag}").id
    reason, until = _refused.get(tag, ("", 0.0))
    if time.monotonic() < until:
        raise Unusable(reason)
    return None


def _build(client: docker.DockerClient, build: Build, tag: str) -> str:
    log.warning("building the image %s:%s of %s (once)", REPOSITORY, tag, build.folder)
    try:
        image = _made(client, build)
        covered = ("/tmp", build.workdir or _own_workdir(image))
        docker_engine.require_usable(client, image, docker_engine.NEEDED, covered, "its image")
        image.tag(REPOSITORY, tag)
    except (Unusable, *UNANSWERED) as error:
        client.ping()  # an engine that has gone says nothing about the image
        reason = str(error) if isinstance(error, Unusable) else f"its image cannot be built: {line_of(error)}"
        _refused[tag] = reason, time.monotonic() + REFUSED_SECONDS
        raise Unusable(reason) from error
    return image.id


def _made(client: docker.DockerClient, build: Build) -> Image:
    """Raises Unusable, or what an engine does."""
    end, found = time.monotonic() + build.seconds, None
    try:
        lines = client.api.build(path=str(build.folder), rm=True, forcerm=True, decode=True, timeout=build.seconds)
        with contextlib.closing(lines):  # the engine ends what nobody listens to
            for told in lines:
                if "error" in told:
                    raise BuildError(told["error"], lines)
                if time.monotonic() > end:
                    raise TimeoutError
                found = BUILT.search(told.get("stream", "")) or found
    except (TimeoutError, ReadTimeout, ReadTimeoutError) as error:  # the last while its answer is read
        raise Unusable(
            f"its image was not built in {build.seconds:.0f} s (environment.build_timeout_sec of task.toml): "
            "raise that, or try again later, which goes on after the last step that was done"
        ) from error
    if not found:
        raise BuildError("the engine ended before it was", lines)
    return client.images.get(found[1])


def workdir(client: docker.DockerClient, image: str) -> str:
    """The working folder that it has itself."""
    return _own_workdir(client.images.get(image))


def _own_workdir(image: Image) -> str:
    return image.attrs["Config"].get("WorkingDir") or "/"


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
            container.remove(v=True, force=True)
    except (*UNANSWERED, tarfile.TarError, KeyError) as error:
        raise ImageError(f"{place} cannot be read in its image: {line_of(error)}") from error


def _unpack(archive: tempfile._TemporaryFileWrapper, target: Path) -> None:
    with tarfile.open(fileobj=archive) as entries:
        for entry in entries:
            _, *parts = PurePosixPath(entry.name).parts  # the first is the folder itself
            place = target.joinpath(*parts)
            content = entries.getmember(entry.linkname) if entry.islnk() else entry
            if ".." in parts or not (entry.isdir() or content.isreg()):
                continue
            if entry.isdir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with entries.extractfile(content) as source, place.open("wb") as file:
                shutil.copyfileobj(source, file)
            place.chmod(0o755 if entry.mode & 0o100 else 0o644)


@functools.cache
def _digest(folder: Path, workdir: str) -> str:
    """Of the names, contents and permissions of its files, of where links lead, and of what is asked of an image here;
    once in a process, since a prepared task stays as it is."""
    found = hashlib.sha256(Path(__file__).read_bytes() + Path(docker_engine.__file__).read_bytes() + workdir.encode())
    for path in sorted(folder.rglob("*")):
        found.update(f"{path.relative_to(folder)}\0{path.lstat().st_mode:o}\0".encode())
        if path.is_symlink():
            found.update(os.fsencode(os.readlink(path)))
        elif path.is_file():
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]
