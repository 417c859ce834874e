"""Cards of experiments where no engine gives them: which devices are shown, by which command line; no card is here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from envs.records import Limits
from envs.sandbox import SandboxFailure, devices, gvisor, host_view, process
from envs.sandbox.base import Folders, Kind
from envs.sandbox.packages import OwnPackages
from tests.cards import card_devices

KIND = Kind(Limits(gpus=1), (1,))


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return card_devices(tmp_path / "dev", monkeypatch)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    for name in ("workspace", "task"):
        (tmp_path / name).mkdir()
    return Folders("toy", tmp_path / "workspace", tmp_path / "task")


def test_an_experiment_has_its_own_cards_and_what_all_cards_need(dev: Path) -> None:
    names = ("nvidia1", "nvidiactl", "nvidia-uvm")
    assert devices.of((1,)) == {f"/dev/{name}": dev / name for name in names}
    (dev / "nvidia-uvm-tools").symlink_to("/dev/null")
    assert list(devices.of((0, 1))) == [f"/dev/{name}" for name in ("nvidia0", *names, "nvidia-uvm-tools")]
    assert devices.of(()) == {}
    with pytest.raises(SandboxFailure, match=r"no .*/nvidia7 .*sandbox\.gpus"):
        devices.of((7,))
    (dev / "nvidia-uvm").unlink()
    with pytest.raises(SandboxFailure, match="nvidia-uvm .*nvidia-modprobe"):
        devices.of((0,))


def test_bubblewrap_binds_them_before_dev_is_closed(dev: Path, folders: Folders) -> None:
    mounts = host_view.mounts(folders, KIND.limits, OwnPackages())
    command = process._bwrap(mounts, {}, False, devices.of((1,)))
    bound = command.index(str(dev / "nvidia1"))
    assert command[bound - 1 : bound + 2] == ["--dev-bind", str(dev / "nvidia1"), "/dev/nvidia1"]
    assert bound < command.index("/dev", command.index("--remount-ro")) and str(dev / "nvidia0") not in command


@pytest.mark.parametrize("knows", [True, False])
def test_gvisor_is_told_of_cards_where_it_knows_them(dev, folders, tmp_path, monkeypatch, knows) -> None:
    told = tmp_path / "told"
    runsc = tmp_path / "bin/runsc"
    runsc.parent.mkdir()
    runsc.write_text(f'#!/bin/sh\necho "$@" >> {told}\n{"echo -nvproxy" if knows else ":"}\n')
    runsc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{runsc.parent}:{os.environ['PATH']}")
    gvisor._require_nvproxy.cache_clear()
    backend = gvisor.GvisorBackend()
    try:
        if not knows:
            with pytest.raises(SandboxFailure, match=r"no nvproxy.*sandbox\.backend=docker or process"):
                backend.open(folders, KIND, 2_000_000)
            return
        channel = backend.open(folders, KIND, 2_000_000)
        channel._process.wait(10)
        channel.close()
    finally:
        gvisor._require_nvproxy.cache_clear()
    (ran,) = [line for line in told.read_text().splitlines() if " run " in line]
    assert "--network=none --nvproxy run --bundle" in ran
    shown = gvisor._config(folders, KIND, OwnPackages(), False, devices.of(KIND.gpus))["linux"]["devices"]
    null = os.stat("/dev/null").st_rdev
    assert [one["path"] for one in shown] == ["/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm"]
    assert (shown[0]["type"], shown[0]["major"], shown[0]["minor"]) == ("c", os.major(null), os.minor(null))
