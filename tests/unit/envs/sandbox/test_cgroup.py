"""Control groups where the kernel does not say which a process is in."""

from __future__ import annotations

from envs.sandbox import cgroup


def test_an_ordinary_user_without_proc_self_cgroup_has_none(monkeypatch, tmp_path):
    monkeypatch.setattr(cgroup.os, "getuid", lambda: 1000)
    monkeypatch.setattr(cgroup, "OWN", tmp_path / "cgroup")
    assert cgroup.make("toy", 100, 1.0, None) is None
    cgroup.forget("toy")
