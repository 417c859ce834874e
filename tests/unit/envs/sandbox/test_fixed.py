"""A folder that an experiment's user may own, as /dev in some sandboxes, is what it was when the next one begins."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from envs.sandbox.fixed import Fixed


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    folder = tmp_path / "dev"
    (folder / "shm").mkdir(parents=True)
    (folder / "null").touch()
    (folder / "core").symlink_to("/proc/kcore")
    (folder / "fd").symlink_to("/proc/self/fd")
    return folder


def times(folder: Path) -> None:
    os.utime(folder / "core", ns=(1, 1), follow_symlinks=False)
    os.utime(folder, ns=(1, 1))


def one_for_another(folder: Path) -> None:
    (folder / "core").unlink()
    (folder / "core").write_text("told")


def as_a_folder(folder: Path) -> None:
    (folder / "fd").unlink()
    (folder / "fd/told").mkdir(parents=True)


@pytest.mark.parametrize(
    "leave",
    [
        times, one_for_another, as_a_folder,
        lambda folder: (folder / "core").unlink(),
        lambda folder: (folder / "told").mkdir(mode=0),
        lambda folder: folder.chmod(0o500),
    ],
    ids=["times", "one for another", "as a folder", "one less", "one more", "mode"],
)  # fmt: skip
def test_what_is_changed_there_is_seen_and_mended(dev: Path, leave: Callable[[Path], None]) -> None:
    before = dev.stat().st_mode
    fixed = Fixed(str(dev))
    assert not fixed.changed()
    leave(dev)
    assert fixed.changed()
    fixed.restore()
    assert fixed.settle() and not fixed.changed()
    assert sorted(os.listdir(dev)) == ["core", "fd", "null", "shm"] and dev.stat().st_mode == before
    assert os.readlink(dev / "core") == "/proc/kcore" and os.readlink(dev / "fd") == "/proc/self/fd"
    assert 1 not in (dev.stat().st_mtime_ns, dev.stat().st_atime_ns, os.lstat(dev / "core").st_mtime_ns)


@pytest.mark.parametrize("change", [Path.unlink, lambda device: os.utime(device, ns=(1, 1))], ids=["gone", "times"])
def test_a_device_that_was_changed_cannot_be_mended(dev: Path, change: Callable[[Path], None]) -> None:
    fixed = Fixed(str(dev))
    change(dev / "null")
    assert not fixed.settle()
