"""The devices of NVIDIA's driver that an experiment gets where no engine gives them: those of its own cards, and those
that all cards need. The driver's libraries are seen with the rest of the system."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from envs.errors import SandboxFailure

DEV = Path("/dev")
COMMON, OPTIONAL = ("nvidiactl", "nvidia-uvm"), ("nvidia-uvm-tools",)


def of(gpus: Iterable[int]) -> dict[str, Path]:
    """Where an experiment with these cards sees a device → the device; gpus: N of /dev/nvidiaN each.

    Raises:
        SandboxFailure: names the device that this machine has not.
    """
    if not (cards := [f"nvidia{gpu}" for gpu in gpus]):
        return {}
    needed = [*cards, *COMMON]
    if missing := [name for name in needed if not (DEV / name).exists()]:
        raise SandboxFailure(
            f"there is no {DEV / missing[0]} for an experiment with a GPU: sandbox.gpus must be ids of cards here, and "
            "NVIDIA's driver must have made its devices (`nvidia-modprobe -c 0 -u`)"
        )
    return {f"/dev/{name}": DEV / name for name in (*needed, *OPTIONAL) if (DEV / name).exists()}
