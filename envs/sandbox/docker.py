"""The Docker backend: a warm container per slot, without network, privileges or a writable root.

The container's PID 1 is the runner, spoken to over the attached standard streams. It ends when its input closes, and
`auto_remove` deletes it, so containers do not outlive the actor that started them (`docker ps --filter label=mlagent`
shows those that run); one that never ran is deleted here. The engine, rootful or rootless, must share the host's file
system (workspaces are bind mounts) and enforce limits.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException, ImageNotFound, NotFound
from docker.types import DeviceRequest, Mount

from envs import docker_engine, task_image
from envs.errors import LastingFailure
from envs.records import Build
from envs.sandbox import host_view, image, runner
from envs.sandbox.base import MOUNTED_TASK, Channel, Folders, Kind, SandboxFailure, environment
from envs.sandbox.packages import Packages

LABEL = "mlagent"
STDOUT = 1
CPU_PERIOD = 100_000
ANSWER_SECONDS = 10.0
CREATE_SECONDS = 600.0
"""An image may have to be built."""
ENFORCED = {"MemoryLimit": "memory", "PidsLimit": "processes", "CpuCfsQuota": "CPU time"}
"""What `docker info` must confirm."""


class DockerBackend:
    """Containers of a Docker Engine (`DOCKER_HOST` is honoured)."""

    name = "docker"
    guarded = False

    def __init__(self, image_name: str, packages: Packages, bundled_data: bool = False):
        """image_name: of an image of one's own; empty builds the project's, for these packages."""
        self._engine, info = engine(CREATE_SECONDS)
        self.maps_root = "name=rootless" in info.get("SecurityOptions", [])
        self._runner_mb = packages.runner_mb
        self._from = image.own(self._engine, image_name) if image_name else image.ensure(self._engine, packages)
        self._unstarted: set[str] = set()
        """Names of containers that may have been made and did not start, which the engine does not delete by itself."""
        self._shown: list[host_view.Mount] = []
        self.image = self._from
        if not packages.in_image:
            self._shown = host_view.package_mounts(packages, bundled_data)
            self.image = f"{self._from}\n{packages.pins}"
        elif bundled_data:
            self.image = self._from = image.with_bundled_data(self._engine, self._from)

    def open(self, folders: Folders, kind: Kind, uid: int) -> AttachedChannel:
        limits, user = kind.limits, 0 if self.maps_root else uid
        variables, run = environment(limits), ["-I", "-c", Path(runner.__file__).read_text()]
        shown = [] if kind.room.build else self._shown
        if shown:
            variables, run = host_view.variables(limits), host_view.RUN
        variables.pop("PATH")  # the image's own says where its Python is
        source = self._of_task(kind.room.build) if kind.room.build else self._from
        name = f"{LABEL}-{uuid.uuid4().hex}"  # known also where the engine's answer is lost
        try:
            container = self._engine.containers.create(
                source,
                run,
                name=name,
                entrypoint=["python3"],  # the runner is the first process, whatever the image begins with
                stdin_open=True,
                auto_remove=True,
                labels={LABEL: str(os.getpid())},
                user=f"{user}:{user}",
                network_mode="none",
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                pids_limit=limits.processes + 1,
                **shares(limits.memory_mb + self._runner_mb, limits.cpus),
                tmpfs={
                    "/tmp": f"size={limits.disk_mb}m,mode=1777",
                    **{one.target: "ro,size=4k" for one in shown if not one.source},
                },
                shm_size=f"{limits.disk_mb}m",
                device_requests=[DeviceRequest(device_ids=[str(gpu) for gpu in kind.gpus], capabilities=[["gpu"]])]
                if kind.gpus
                else None,
                environment=variables,
                healthcheck=docker_engine.NO_HEALTHCHECK,
                working_dir="/workspace",
                mounts=[
                    Mount(MOUNTED_TASK, str(folders.shown), type="bind", read_only=True),
                    Mount("/workspace", str(folders.workspace), type="bind"),
                    *(
                        Mount(target, str(folder), type="bind", read_only=not writable)
                        for target, folder, writable in folders.places
                    ),
                    *(Mount(one.target, one.source, type="bind", read_only=True) for one in shown if one.source),
                ],
            )
            channel = AttachedChannel(container, self._runner_mb)
            container.start()
        except ImageNotFound as error:
            raise SandboxFailure(f"the engine has no image {source!r} any more") from error
        except (DockerException, OSError) as error:
            self._unstarted.add(name)
            self._delete_unstarted()
            raise SandboxFailure(f"the Docker Engine could not start a sandbox ({error}): is it running?") from error
        self._delete_unstarted()
        return channel

    def _delete_unstarted(self) -> None:
        """As far as the engine is there to do it."""
        for name in tuple(self._unstarted):
            try:
                self._engine.api.remove_container(name, force=True)
            except NotFound:
                pass
            except (DockerException, OSError):
                return
            self._unstarted.discard(name)

    def _of_task(self, build: Build) -> str:
        """Id of the image that a task's Dockerfile makes, which another machine may have built before, and not this."""
        try:
            return task_image.built(self._engine, build)
        except docker_engine.ImageError as error:
            kind = LastingFailure if isinstance(error, docker_engine.Unusable) else SandboxFailure
            raise kind(f"{build.folder}/Dockerfile: {error}") from error


def engine(seconds: float = ANSWER_SECONDS) -> tuple[docker.DockerClient, dict[str, Any]]:
    """The Docker Engine (`DOCKER_HOST` is honoured), and what it says of itself.

    seconds: for each of its answers.

    Raises:
        SandboxFailure: it does not answer, or does not limit what runs in it.
    """
    client = docker_engine.connect(seconds)
    try:
        info = client.info()
    except (DockerException, OSError) as error:
        raise SandboxFailure(f"the Docker Engine does not answer ({error}): is it running?") from error
    require_limits(info)
    return client, info


def shares(memory_mb: int, cpus: float) -> dict[str, Any]:
    """Limits of a container that can be changed while it runs, as the engine wants them."""
    quota = int(min(cpus, os.cpu_count()) * CPU_PERIOD)
    return {"mem_limit": f"{memory_mb}m", "memswap_limit": f"{memory_mb}m",
            "cpu_period": CPU_PERIOD, "cpu_quota": quota}  # fmt: skip


def require_limits(info: Mapping[str, Any]) -> None:
    """Refuse an engine that would let experiments use whatever they like, as a rootless one does without cgroup v2.

    info: what `docker info` says.

    Raises:
        SandboxFailure: names what is not limited.
    """
    if missing := [what for name, what in ENFORCED.items() if not info.get(name)]:
        rootless = "a rootless one needs cgroup v2 with the controllers cpu, memory and pids delegated to its user"
        raise SandboxFailure(
            f"the Docker Engine does not limit {', '.join(missing)} (cgroup v{info.get('CgroupVersion', '1')}, driver "
            f"{info.get('CgroupDriver', 'none')}): {rootless}; the sandboxes gvisor and process need none"
        )


class AttachedChannel(Channel):
    """Lines over a container's attached streams, in Docker's multiplexed framing."""

    contained = True

    def __init__(self, container: docker.models.containers.Container, own_mb: int):
        """own_mb: memory of the container that is not the experiment's."""
        super().__init__()
        self._container, self._own_mb, self.name = container, own_mb, f"container {container.short_id}"
        attached = container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        self._socket: socket.socket = attached._sock
        self._owner = attached
        self._raw, self._said = b"", b""

    def limit(self, memory_mb: int, cpus: float) -> None:
        try:
            self._container.update(**shares(memory_mb + self._own_mb, cpus))
        except (DockerException, OSError) as error:
            raise SandboxFailure(f"{self.name} cannot be given {memory_mb} MiB: {error}") from error

    def send(self, line: str) -> None:
        try:
            self._socket.sendall(line.encode() + b"\n")
        except OSError as error:
            raise self._ended() from error

    def _more(self, deadline: float) -> bytes:
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            raise
        except OSError as error:
            raise self._ended() from error
        if not data:
            raise self._ended()
        self._raw += data
        return self._demultiplexed()

    def _demultiplexed(self) -> bytes:
        """Standard output of complete frames (1 byte stream, 3 unused, 4 length, big-endian) of the raw bytes."""
        output = b""
        while len(self._raw) >= 8:
            stream, length = struct.unpack(">BxxxL", self._raw[:8])
            if len(self._raw) < 8 + length:
                break
            frame, self._raw = self._raw[8 : 8 + length], self._raw[8 + length :]
            if stream == STDOUT:
                output += frame
            else:
                self._said = (self._said + frame)[-2000:]
        return output

    def _ended(self) -> SandboxFailure:
        said = self._said.decode(errors="replace").strip() or "the engine or the container died"
        return SandboxFailure(f"container {self._container.short_id} ended: {said}")

    def ran_out_of_memory(self) -> bool:
        return False  # the kernel ends the experiment, whose score is highest, and the runner reports it

    def has_room(self, memory_mb: int) -> bool:
        return True  # the memory of processes that have ended is free

    def close(self) -> None:
        self._owner.close()
        self._socket.close()
        # It may be gone already, or the engine is: one that was killed removes its containers when it starts again.
        with contextlib.suppress(DockerException, OSError):
            self._container.remove(force=True)
