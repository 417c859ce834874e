"""A task's data in a folder that a sandbox has mounted: links where that can be, copies where not."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from envs.sandbox.data import TaskData


def make_data(folder: Path, name: str) -> Path:
    (folder / "deep/er").mkdir(parents=True)
    (folder / "table.csv").write_text(name)
    (folder / "deep/er" / name).write_text(name)
    (folder / "link.csv").symlink_to("table.csv")
    return folder


def tree(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_what_is_shown_is_the_task_and_nothing_of_the_one_before(tmp_path: Path) -> None:
    tasks, shown, data = [make_data(tmp_path / name, name) for name in "ab"], tmp_path / "shown", TaskData()
    shown.mkdir()
    for env_dir in (*tasks, tasks[0]):
        data.show(env_dir, shown)
        assert tree(shown) == tree(env_dir)
        assert (shown / "table.csv").samefile(env_dir / "table.csv") and (shown / "link.csv").is_symlink()
    assert [(tree(env_dir)["table.csv"]) for env_dir in tasks] == ["a", "b"]


def test_data_that_cannot_be_linked_are_copied_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    env_dir, temporary, link = make_data(tmp_path / "a", "a"), tmp_path / "temporary", os.link

    def link_within(source: str, target: Path, **given: bool) -> None:
        if not str(source).startswith(str(temporary)):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target, **given)

    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(os, "link", link_within)
    data, folders = TaskData(), [temporary / "one", temporary / "two"]
    for shown in folders:
        shown.mkdir()
        data.show(env_dir, shown)
        assert tree(shown) == tree(env_dir)
    assert folders[0].joinpath("table.csv").samefile(folders[1] / "table.csv")
    assert caplog.text.count("are copied there once") == 1
    data.close()
    assert sorted(temporary.iterdir()) == folders
