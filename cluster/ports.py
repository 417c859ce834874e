"""Ports of this machine for servers that take a number and listen on it seconds later.

Invariants: a port that is kept here is given to nobody else who asks here, until it is let go or its keeper ends; nor
does the kernel give it to who takes any, since it lies below the ports of outgoing connections; nor Ray to its workers.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from pathlib import Path

from envs.errors import UserError

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
FIRST = 20_000
"""Ray's workers listen on those from 10,002 on."""


class PortError(UserError):
    """There are not enough free ports."""


class Ports:
    """Kept as long as it is open."""

    def __init__(self, count: int) -> None:
        self._kept = contextlib.ExitStack()
        self.numbers: list[int] = []
        last = int(RANGE.read_text().split()[0])
        candidates = list(range(FIRST, last)) or list(range(1024, last))
        random.shuffle(candidates)
        while candidates and len(self.numbers) < count:
            if self._keep(number := candidates.pop(0)):
                self.numbers.append(number)
        if len(self.numbers) < count:
            self.close()
            raise PortError(f"no {count} free ports from {FIRST} to {last} (the first of {RANGE})")

    def _keep(self, number: int) -> bool:
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0mlagent-port-{number}")  # an abstract name, which goes with its process
            with socket.create_server(("127.0.0.1", number)):
                pass
        except OSError as error:
            mark.close()
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        self._kept.enter_context(mark)
        return True

    def close(self) -> None:
        self._kept.close()
