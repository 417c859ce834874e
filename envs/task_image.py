"""Images of tasks: what a task's Dockerfile makes, built by a Docker Engine once for each content of its folder.

Invariants: an image's tag is the hash of that folder and of this file, and only an image that sandboxes can run in has
one; whatever waits for the engine or for another build has a deadline; what is taken out of an image is plain files, so
that no link of it leads anywhere on the host.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import shutil
import tarfile
import tempfile
import time
from pathlib import Path, PurePosixPath

import docker
from docker.errors import DockerException, ImageNotFound
from docker.models.images import Image
from filelock import FileLock, Timeout
from urllib3.exceptions import HTTPError

from envs.errors import UserError

log = logging.getLogger(__name__)

REPOSITORY = "mlagent-task"
SECONDS = 600.0
"""That the engine may be silent while it builds."""
WAIT_SECONDS = 1800.0
"""For what other processes build."""
PROBE_SECONDS = 60.0
REFUSED_SECONDS = 300.0
"""For so long an image that was found to be unusable is not tried again."""
NOBODY = "65534:65534"
NO_HEALTHCHECK = {"test": ["NONE"]}
"""An image's own would run beside the experiment, in its folder and as its user."""
NEEDED = {
    "python3": ["-I", "-c", "import sys; sys.exit(sys.version_info < (3, 9))"],
    "bash": ["-c", "exit"],
}  # fmt: skip
"""Program → arguments with which it tells whether sandboxes can use it."""


class ImageError(UserError):
    """An image that cannot be had or used; the message says why, and its caller whose it is."""


class Unusable(ImageError):
    """Trying again at once would come to the same."""


UNANSWERED = (DockerException, OSError, HTTPError)
"""What a call of the engine may raise; while an answer is read, errors are urllib3's own."""
_refused: dict[str, tuple[str, float]] = {}
"""Tag → why no sandbox can run in its image, and until when that holds."""


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
        Unusable: it cannot be built, or no sandbox can run in it.
        ImageError: the engine does not answer, or other images are being built.
    """
    if not (folder / "Dockerfile").is_file():
        raise ImageError("it is not on this machine: MLAGENT_CACHE must name a folder that all machines have")
    tag = _digest(folder)
    try:
        if known := _known(client, tag):
            return known
        lock = Path(tempfile.gettempdir()) / f"mlagent-task-image-{os.getuid()}.lock"  # one build per machine
        with FileLock(lock, timeout=WAIT_SECONDS):
            return _known(client, tag) or _build(client, folder, tag)
    except Timeout as error:
        raise ImageError(f"other images have been in the making on this machine for {WAIT_SECONDS:.0f} s") from error
    except UNANSWERED as error:
        raise ImageError(f"its image cannot be had: {_line(error)}") from error


def _known(client: docker.DockerClient, tag: str) -> str | None:
    """Raises Unusable if it was so lately."""
    with contextlib.suppress(ImageNotFound):
        return client.images.get(f"{REPOSITORY}:{tag}").id
    reason, until = _refused.get(tag, ("", 0.0))
    if time.monotonic() < until:
        raise Unusable(reason)
    return None


def _build(client: docker.DockerClient, folder: Path, tag: str) -> str:
    log.warning("building the image %s:%s of %s (once)", REPOSITORY, tag, folder)
    try:
        image, _ = client.images.build(path=str(folder), rm=True, forcerm=True, timeout=SECONDS)
        _require_no_volume(image)
        for program, asked in NEEDED.items():
            _require(client, image, program, asked)
        image.tag(REPOSITORY, tag)
    except (Unusable, *UNANSWERED) as error:
        client.ping()  # an engine that has gone says nothing about the image
        reason = str(error) if isinstance(error, Unusable) else f"its image cannot be built: {_line(error)}"
        _refused[tag] = reason, time.monotonic() + REFUSED_SECONDS
        raise Unusable(reason) from error
    return image.id


def _require_no_volume(image: Image) -> None:
    """One is written to the host's disk without a limit, and stays there while a sandbox serves many experiments."""
    if volumes := image.attrs["Config"].get("Volumes"):
        raise Unusable(f"its image has a VOLUME ({', '.join(volumes)}), which experiments would share: leave it out")


def _require(client: docker.DockerClient, image: Image, program: str, asked: list[str]) -> None:
    """Have the image run the program as sandboxes do: as any user, with nothing in the working folder."""
    covered = {"/tmp", image.attrs["Config"].get("WorkingDir") or "/"} - {"/"}
    try:
        probe = client.containers.create(
            image.id, asked, entrypoint=[program], network_mode="none", user=NOBODY, read_only=True,
            tmpfs=dict.fromkeys(covered, ""), healthcheck=NO_HEALTHCHECK,
        )  # fmt: skip
        try:
            probe.start()
            status = probe.wait(timeout=PROBE_SECONDS)["StatusCode"]
            said = probe.logs(tail=1).decode(errors="replace").strip() if status else ""
        finally:
            with contextlib.suppress(*UNANSWERED):
                probe.remove(v=True, force=True)
    except UNANSWERED as error:
        status, said = None, _line(error)
    if status != 0:
        raise Unusable(
            f"its image does not run {program}, which sandboxes need on its PATH, for any user and outside its working "
            f"folder (of python3, 3.9 or later): {said or f'exit code {status}'}"
        )


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
            container.remove(v=True, force=True)
    except (*UNANSWERED, tarfile.TarError, KeyError) as error:
        raise ImageError(f"{place} cannot be read in its image: {_line(error)}") from error


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
def _digest(folder: Path) -> str:
    """Of the names, contents and permissions of its files, of where links lead, and of what is asked of an image here;
    once in a process, since a prepared task stays as it is."""
    found = hashlib.sha256(Path(__file__).read_bytes())
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
