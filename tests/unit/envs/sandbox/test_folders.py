"""Folders of sandboxes: what a killed process left goes, what anybody uses or is about to use stays."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from envs.sandbox.folders import PREFIX, YOUNG_SECONDS, HeldFolder, sweep


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def age(folder: Path, seconds: float) -> None:
    made = (folder / "lock").stat().st_mtime - seconds
    os.utime(folder / "lock", (made, made))


def test_only_what_nobody_holds_and_is_not_new_is_swept(tmp_path: Path) -> None:
    held, left, coming = HeldFolder(), tmp_path / f"{PREFIX}left", tmp_path / f"{PREFIX}coming"
    for folder in (left, coming):
        folder.mkdir()
        (folder / "lock").touch()
    for folder in (held.path, left):
        age(folder, 2 * YOUNG_SECONDS)
    sweep()
    assert held.path.exists() and coming.exists() and not left.exists()
    held.close()
    assert not held.path.exists()
