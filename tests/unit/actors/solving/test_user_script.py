"""What of a user's folder is copied for the sandbox, and what is asked of its score."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rich.console import Console

from actors import solve
from actors.solving import user_script
from actors.solving.settings import SolveError, read_settings
from envs.records import Direction


def test_data_behind_a_link_is_there_and_a_link_that_leads_back_leads_nowhere(tmp_path: Path) -> None:
    project, data = tmp_path / "project", tmp_path / "data"
    for folder in (project / "lib", project / "venv", project / ".git", data):
        folder.mkdir(parents=True)
        (folder / "file.csv").write_text("x\n1\n")
    (project / "fit.py").write_text("print('accuracy: 1')\n")
    (project / "data").symlink_to(data)
    (project / "lib/up").symlink_to(project)
    (data / "gone").symlink_to(tmp_path / "nowhere")
    settings = read_settings(["metric=accuracy"])
    read = user_script.read(project / "fit.py", settings, Direction.MAXIMIZE, (), "", tmp_path / "copy")
    copied = {str(path.relative_to(read.task.env_dir)) for path in read.task.env_dir.rglob("*") if path.is_file()}
    assert copied == {"fit.py", "data/file.csv", "lib/file.csv"}
    assert read.task.read_only == {"data/file.csv", "lib/file.csv"}


def test_a_file_that_the_agent_may_change_lies_in_the_folder_itself(tmp_path: Path) -> None:
    project, shared = tmp_path / "project", tmp_path / "shared"
    for folder in (project / "own", shared):
        folder.mkdir(parents=True)
        (folder / "helper.py").write_text("")
    (project / "fit.py").write_text("print('accuracy: 1')\n")
    (project / "lib").symlink_to(shared)
    (project / "again").symlink_to(project / "own")

    def read(number: int, files: str) -> user_script.UserScript:
        settings = read_settings([f"files=[{files}]"])
        return user_script.read(project / "fit.py", settings, Direction.MAXIMIZE, (), "", tmp_path / f"copy-{number}")

    assert set(read(1, "again/*.py").sources) == {"fit.py", "again/helper.py"}
    with pytest.raises(SolveError, match="a link leads from lib/helper.py to .*shared/helper.py, outside") as refused:
        read(2, "lib/*.py")
    assert "\n" not in str(refused.value)


def test_what_is_too_much_to_copy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_script, "MAX_BYTES", 10)
    (tmp_path / "fit.py").write_text("print('accuracy: 1')\n")
    with pytest.raises(SolveError, match="all of it would be copied"):
        user_script.read(tmp_path / "fit.py", read_settings([]), Direction.MAXIMIZE, (), "", tmp_path / "copy")


def test_no_answer_to_which_way_is_better_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fit.py").write_text("print('rows: 1')\n")
    console = Console(quiet=True)

    def ended(question: str) -> str:  # Ctrl-D
        raise EOFError

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(console, "input", ended)
    with pytest.raises(SolveError, match="whether a higher or a lower rows is better is not known: give direction="):
        solve.find(str(tmp_path / "fit.py"), read_settings(["metric=rows"]), (), "", tmp_path / "copy", console)
