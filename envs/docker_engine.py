"""A Docker Engine, and whether sandboxes can run in an image that it has and that is not this project's.

Invariants: an image is tried as sandboxes run in it: as any user, with no network and nothing to write, and with
nothing of its own where sandboxes have their folders; an engine that does not answer, and an image that cannot be used,
are one sentence; what is asked here is waited for until a deadline.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import docker
from docker.errors import DockerException
from docker.models.images import Image
from urllib3.exceptions import HTTPError

from envs.errors import SandboxFailure, UserError

PROBE_SECONDS = 60.0
NOBODY = "65534:65534"
NO_HEALTHCHECK = {"test": ["NONE"]}
"""An image's own would run beside the experiment, in its folder and as its user."""
PYTHON = "import platform, sys; sys.version_info < (3, 9) and sys.exit('it is ' + platform.python_version())"
NEEDED = {"python3": ["-I", "-c", PYTHON], "bash": ["-c", "exit"]}
"""Program → arguments with which it tells whether sandboxes can use it."""
UNANSWERED = (DockerException, OSError, HTTPError)
"""What a call of the engine may raise; while an answer is read, errors are urllib3's own."""


class ImageError(UserError):
    """An image that cannot be had or used; the message says why, and its caller whose it is."""


class Unusable(ImageError):
    """Trying again at once would come to the same."""


def connect(seconds: float) -> docker.DockerClient:
    """The Docker Engine (`DOCKER_HOST` is honoured); seconds: that it may be silent.

    Raises:
        SandboxFailure: none answers.
    """
    try:
        client = docker.from_env(timeout=seconds)
        client.ping()
    except UNANSWERED as error:
        raise SandboxFailure(f"no Docker Engine answers ({error}): start it") from error
    return client


def require_usable(
    client: docker.DockerClient, image: Image, programs: Iterable[str], covered: Iterable[str], which: str
) -> None:
    """Refuse an image in which no sandbox can run.

    programs: of `NEEDED`; covered: where sandboxes have folders of their own; which: image it is, for the message.

    Raises:
        Unusable: says why.
    """
    if volumes := image.attrs["Config"].get("Volumes"):
        # One is written to the host's disk without a limit, and stays while a sandbox serves many experiments.
        raise Unusable(f"{which} has a VOLUME ({', '.join(volumes)}), which experiments would share: leave it out")
    places = sorted({*covered} - {"/"})
    for program in programs:
        if reason := _refusal(client, image, program, places):
            raise Unusable(
                f"{which} does not run {program}, which sandboxes need on its PATH, for any user and outside "
                f"{', '.join(places)} (of python3, 3.9 or later): {reason}"
            )


def _refusal(client: docker.DockerClient, image: Image, program: str, covered: list[str]) -> str:
    """Why the image does not run a program; empty where it does."""
    try:
        probe = client.containers.create(
            image.id, NEEDED[program], entrypoint=[program], network_mode="none", user=NOBODY, read_only=True,
            tmpfs=dict.fromkeys(covered, ""), healthcheck=NO_HEALTHCHECK,
        )  # fmt: skip
        try:
            probe.start()
            status = probe.wait(timeout=PROBE_SECONDS)["StatusCode"]
            said = probe.logs(tail=1).decode(errors="replace").strip() if status else ""
            return (said or f"exit code {status}") if status else ""
        finally:
            with contextlib.suppress(*UNANSWERED):
                probe.remove(v=True, force=True)
    except UNANSWERED as error:
        return line_of(error)


def line_of(error: Exception) -> str:
    """The first line of what it says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
