"""Stand-ins of the devices that NVIDIA's driver makes for two cards, for tests where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from envs.sandbox import devices


def card_devices(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Fill `folder` with them, and have it looked into in the place of /dev."""
    folder.mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (folder / name).symlink_to("/dev/null")
    patch.setattr(devices, "DEV", folder)
    return folder
