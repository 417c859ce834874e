"""The channel to a runner that is a local process: lines over its standard input and output."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Callable, Mapping

from envs.sandbox.base import Channel, SandboxFailure
from envs.sandbox.cgroup import Cgroup
from envs.sandbox.weighed import Weighed

ROOM_SECONDS = 1.0
"""So long the memory of what has ended may take to be free: gVisor needs some 0.2 s."""


class PipeChannel(Channel):
    """Starts the command (in the control group, if there is one) and talks to it."""

    def __init__(
        self, name: str, command: list[str], group: Cgroup | Weighed | None, own_mb: int, contained: bool,
        ended: Callable[[], None] = lambda: None, env: Mapping[str, str] | None = None,
    ):  # fmt: skip
        """name: of the sandbox, for messages; own_mb: memory in the group that is not the experiment's.

        ended: called once the process is gone; env: None inherits ours.
        """
        super().__init__()
        self.contained, self.name = contained, name
        self._group, self._own_mb, self._ended_hook = group, own_mb, ended
        self._kills = 0
        try:
            self._process = subprocess.Popen(
                group.enter(command) if group else command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, start_new_session=True, env=env,
            )  # fmt: skip
        except OSError as error:
            if group:
                group.close()
            raise SandboxFailure(f"{name} does not start: {error}") from error
        if isinstance(group, Weighed):
            group.follow(self._process.pid)

    def limit(self, memory_mb: int, cpus: float) -> None:
        if self._group:
            try:
                self._group.limit(memory_mb + self._own_mb, cpus)
            except OSError as error:
                raise SandboxFailure(f"{self.name} cannot be given {memory_mb} MiB: {error}") from error

    def send(self, line: str) -> None:
        self._kills = self._group.out_of_memory_kills() if self._group else 0
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended() from error

    def _more(self, deadline: float) -> bytes:
        stream = self._process.stdout
        while not select.select([stream], [], [], self._patience(deadline))[0]:
            if time.monotonic() > deadline:
                raise TimeoutError
        data = os.read(stream.fileno(), 65536)
        if not data:
            raise self._ended()
        return data

    def _patience(self, deadline: float) -> float:
        """Seconds to wait before there is something to do here."""
        left = max(0.0, deadline - time.monotonic())
        return min(left, self._group.look()) if isinstance(self._group, Weighed) else left

    def ran_out_of_memory(self) -> bool:
        return self._group is not None and self._group.out_of_memory_kills() > self._kills

    def has_room(self, memory_mb: int) -> bool:
        deadline = time.monotonic() + ROOM_SECONDS
        while self._group and self._group.room() < memory_mb << 20:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _ended(self) -> SandboxFailure:
        self._process.kill()
        said = self._process.communicate()[1].decode(errors="replace").strip()
        return SandboxFailure(f"{self.name} ended ({said[-2000:] or 'no message'})")

    def close(self) -> None:
        self._process.kill()
        if self._group:
            self._group.close()
        self._process.wait()
        self._ended_hook()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):  # what was not yet written goes nowhere
                stream.close()
