"""No experiment reaches what listens on its host, on any backend: Ray's ports, other services, local sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.head import Head
from cluster.quickstart import connect
from tests.sandbox_task import execute, make_task

REACH = """
import os, socket
for family, address in {addresses!r}:
    if isinstance(address, list): address = tuple(address)
    with socket.socket(getattr(socket, family)) as one:
        one.settimeout(2)
        try: one.connect(address); print("REACHED", address)
        except OSError: pass
for path in {paths!r}:
    if os.path.lexists(path): print("VISIBLE", path)
print([name for name in os.environ if "RAY" in name or "KUBERNETES" in name or "TOKEN" in name])
print("tried")
"""


@contextlib.contextmanager
def listening(family: int, address) -> Iterator[None]:
    with socket.socket(family) as server:
        server.bind(address)
        server.listen()
        yield server.getsockname()


@pytest.fixture(scope="module")
def addresses(tmp_path_factory) -> Iterator[list]:
    """(family, address) of what listens on this host, each seen to answer."""
    folder = tmp_path_factory.mktemp("sockets")
    own = socket.gethostbyname(socket.gethostname())
    with contextlib.ExitStack() as stack:
        found = [
            ("AF_INET", list(stack.enter_context(listening(socket.AF_INET, (host, 0))))) for host in {"127.0.0.1", own}
        ]
        if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
            found.append(("AF_INET6", list(stack.enter_context(listening(socket.AF_INET6, ("::1", 0))))[:2]))
        for name in (str(folder / "socket"), f"\0mlagent-test-{os.getpid()}"):
            found.append(("AF_UNIX", stack.enter_context(listening(socket.AF_UNIX, name))))
        for family, address in found:
            with socket.socket(getattr(socket, family)) as client:
                client.connect(tuple(address) if isinstance(address, list) else address)
        yield found


def test_nothing_that_listens_on_the_host_is_reached(pool, addresses, tmp_path):
    outside = [("AF_INET", [host, 80]) for host in ("169.254.169.254", "1.1.1.1")]
    paths = ["/var/run/secrets/kubernetes.io/serviceaccount/token", "/tmp/ray", "/var/run/docker.sock"]
    os.environ["KUBERNETES_SERVICE_HOST"] = "10.96.0.1"  # in a pod, every process has it
    try:
        script = REACH.format(addresses=addresses + outside, paths=paths)
        result = execute(pool, make_task(tmp_path / "task"), script)
    finally:
        del os.environ["KUBERNETES_SERVICE_HOST"]
    assert result.output == "[]\ntried\n", result


@pytest.fixture(scope="module")
def ray_listens() -> Iterator[tuple[list, str]]:
    """(family, address) of every port of a running Ray, each seen to answer, and the file of its token."""
    with Head() as head:
        connect(head)
        own, end, answering = socket.gethostbyname(socket.gethostname()), time.monotonic() + 60, []
        while len(answering) <= 5:  # the node and its agents come after what answers first
            assert time.monotonic() < end, answering
            time.sleep(0.5)
            every = [[host, port] for port in _ports_below(os.getpid()) for host in ("127.0.0.1", own)]
            answering = [("AF_INET", address) for address in every if _answers(address)]
        yield answering, str(head.token_file)


def test_a_running_ray_is_not_reached(pool, ray_listens, tmp_path):
    addresses, token = ray_listens
    result = execute(pool, make_task(tmp_path / "task"), REACH.format(addresses=addresses, paths=[token]))
    assert result.output == "[]\ntried\n", result


def _answers(address) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(tuple(address), 2):
        return True
    return False


def _ports_below(pid: int) -> list[int]:
    """TCP ports on which the descendants of a process listen."""
    import psutil

    found = set()
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found |= {c.laddr.port for c in process.net_connections("tcp4") if c.status == psutil.CONN_LISTEN}
    return sorted(found)
