"""Hosts on one machine: network namespaces with addresses of their own, joined by a switch whose cables can be pulled.

Needs root and iproute2. The file system, and so the token and a run's folder, is shared by all of them. Invariant:
after `close` no process, interface or namespace is left.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

import psutil

SUBNET = "10.203.7"


def missing() -> str:
    """Why there can be no such network here; empty where there can."""
    if os.getuid() != 0:
        return "only root can make network namespaces"
    if not shutil.which("ip") or not shutil.which("nsenter"):
        return "`ip` (iproute2) and `nsenter` (util-linux) are needed"
    tried = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "probe", "type", "bridge"], capture_output=True, text=True
    )
    return f"no bridge can be made: {tried.stderr.strip()}" if tried.returncode else ""


class Network:
    """Context manager. The switch is in a namespace of its own, out of reach of this host's packet filters."""

    def __init__(self) -> None:
        self._prefix = f"mla{os.getpid() % 100_000}-"
        self._hosts: dict[str, str] = {}
        self._switch = f"{self._prefix}switch"

    def __enter__(self) -> Network:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "switch", "up")
        return self

    def add(self, host: str) -> str:
        """A new host, plugged in; returns its address. host: of at most eight characters."""
        address, namespace = f"{SUBNET}.{len(self._hosts) + 2}", f"{self._prefix}{host}"
        self._hosts[host] = address
        _ip("netns", "add", namespace)
        _ip("-n", namespace, "link", "add", "eth0", "type", "veth", "peer", "name", f"to-{host}", "netns", self._switch)
        _ip("-n", self._switch, "link", "set", f"to-{host}", "master", "switch", "up")
        _ip("-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", namespace, "link", "set", device, "up")
        _ip("-n", namespace, "route", "add", "default", "dev", "eth0")  # programs look their address up by a route
        return address

    def start(self, host: str, command: list[str], **options: Any) -> subprocess.Popen:
        """Start a process on a host; options: of `subprocess.Popen`."""
        return subprocess.Popen(["nsenter", f"--net=/var/run/netns/{self._prefix}{host}", *command], **options)

    def cut_off(self, host: str) -> None:
        _ip("-n", self._switch, "link", "set", f"to-{host}", "down")

    def plug_in(self, host: str) -> None:
        _ip("-n", self._switch, "link", "set", f"to-{host}", "up")

    def processes(self, host: str) -> list[psutil.Process]:
        """Those that run on a host."""
        listed = _ip("netns", "pids", f"{self._prefix}{host}").split()
        return [psutil.Process(int(pid)) for pid in listed if psutil.pid_exists(int(pid))]

    def __exit__(self, *_: Any) -> None:
        for host in self._hosts:
            for process in self.processes(host):
                process.kill()
            _ip("netns", "delete", f"{self._prefix}{host}")
        _ip("netns", "delete", self._switch)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout
