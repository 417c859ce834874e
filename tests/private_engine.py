"""A Docker Engine for a test alone, which may be killed: its socket, data and containers are its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException

from envs.sandbox import SandboxPool
from tests.main_job import engine_answers

START_SECONDS = 60


@contextlib.contextmanager
def private_engine(folder: Path) -> Iterator[PrivateEngine | None]:
    """One with the sandbox image, named by `DOCKER_HOST`; None where there can be none."""
    if os.getuid() or not shutil.which("dockerd") or not engine_answers():
        yield None
        return
    image = SandboxPool("docker").image
    started = PrivateEngine(folder)
    try:
        started.take_images([image])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", started.host)
            yield started
    finally:
        started.stop()


class PrivateEngine:
    """Keeps everything in one folder; `host` is what `DOCKER_HOST` has to be."""

    def __init__(self, folder: Path):
        self._folder, self.host = folder, f"unix://{folder}/docker.sock"
        self.start()

    def start(self) -> None:
        """Needs root. One that gives up is begun again: its containerd has 15 s to start, too little where the machine
        is busy. Raises RuntimeError with the end of the engine's log if it does not answer."""
        self._begin()
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            if time.monotonic() > end:
                raise RuntimeError((self._folder / "log").read_text()[-2000:])
            if self._process.poll() is not None:
                self._begin()
            time.sleep(0.5)

    def _begin(self) -> None:
        places = {name: f"{self._folder}/{name}" for name in ("data-root", "exec-root", "pidfile")}
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                # In a network of its own: it deletes the bridge that it finds, which is the usual engine's.
                ["unshare", "--net", "dockerd", "-H", self.host, "--bridge=none", "--iptables=false",
                 *(f"--{name}={place}" for name, place in places.items())],
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def _answers(self) -> bool:
        try:
            return docker.DockerClient(self.host).ping()
        except DockerException:
            return False

    def take_images(self, tags: list[str]) -> None:
        """Copies of those of the usual engine."""
        for tag in tags:
            saved = subprocess.Popen(["docker", "save", tag], stdout=subprocess.PIPE)
            subprocess.run(["docker", "-H", self.host, "load", "-q"], stdin=saved.stdout, check=True)

    def kill(self) -> None:
        """As a crash would; its containers run on, out of anyone's reach."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End its containers and itself."""
        if self._process.poll() is not None:
            self.start()
        client = docker.DockerClient(self.host)
        for container in client.containers.list(all=True):
            container.remove(force=True)
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(30)
        while subprocess.run(["umount", f"{self._folder}/data-root"], capture_output=True).returncode == 0:
            pass  # one mount for each time that it was killed
