"""A Ray head on this machine for one launcher: token authentication on, dashboard on loopback, gone with its launcher.

Invariants: its ports, temporary folder and token are its own, so it meets no other Ray on the machine; however the
launcher ends (even killed), the kernel tells the head to end, and every Ray process ends with it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from cluster.ports import Ports
from envs.errors import UserError

STOP_SECONDS = 20


class HeadError(UserError):
    """The head does not start; the message has its output."""


class Head:
    """Context manager; `dashboard` answers, some seconds after entering, whoever sends `headers`."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="mlagent-ray-"))
        self.token_file = self._folder / "auth_token"
        self._output = self._folder / "head.log"

    def __enter__(self) -> Head:
        self.token_file.touch(mode=0o600)
        token = secrets.token_hex(32)
        self.token_file.write_text(token)
        self.headers = {"Authorization": f"Bearer {token}"}
        self._ports = Ports(4)
        gcs, dashboard, client, agent = self._ports.numbers
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        command = [
            "setpriv", "--pdeathsig", "TERM", str(Path(sys.executable).with_name("ray")), "start", "--head", "--block",
            "--disable-usage-stats", f"--temp-dir={self._folder}", f"--port={gcs}", f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}",
            "--min-worker-port=0", "--max-worker-port=0",  # any: by default those of every head begin with the same
        ]  # fmt: skip
        environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # what is still there when the head ends is to end with it
        }
        with self._output.open("w") as output:
            self._process = subprocess.Popen(  # its own session: Ctrl-C is for the launcher alone
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, **environment},
            )  # fmt: skip
        return self

    def check(self) -> None:
        """Raises HeadError if the head has ended."""
        if self._process.poll() is not None:
            raise HeadError(f"the Ray head ended with code {self._process.returncode}:\n{self._output.read_text()}")

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._ports.close()
        shutil.rmtree(self._folder, ignore_errors=True)
