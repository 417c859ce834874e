"""What is written as a task of Harbor, and what is refused, without running it."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from envs import harbor_export
from envs.errors import TaskError
from envs.records import Direction, Limits, Task
from reward import Terms

TERMS = asdict(Terms("v1"))
GRADER = """import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
import helper
def get_score(folder):
    return helper.rows(folder)
"""
HELPER = "import json, helper_of_it\ndef rows(folder):\n    return 1.0 + helper_of_it.ROWS\n"


@pytest.fixture
def task(tmp_path: Path) -> Task:
    env, scripts = tmp_path / "task/env", tmp_path / "task/scripts"
    for folder in (env, scripts):
        folder.mkdir(parents=True)
    (env / "train.py").write_text("print()\n")
    (scripts / "eval.py").write_text("def get_score(folder):\n    return 0.0\n")
    (scripts / "answers.csv").write_text("id,y\n1,2\n")
    return Task(
        "small", "A problem.", env, scripts, "train.py", frozenset(), "accuracy", Direction.MAXIMIZE, "test",
        Limits(disk_mb=300), 1.0, 0.5,
    )  # fmt: skip


def test_modules_beside_the_grader_go_along_and_grade_there(task, tmp_path):
    (task.private_dir / "eval.py").write_text(GRADER)
    (task.private_dir / "helper.py").write_text(HELPER)
    (task.private_dir / "helper_of_it.py").write_text("ROWS = 2\n")
    folder = tmp_path / "exported"
    harbor_export.write(folder, task, TERMS)
    (tmp_path / "submission.csv").write_text("id,y\n1,2\n")
    asked = [sys.executable, "-m", "envs.exported", tmp_path, folder / "tests/task", tmp_path]
    subprocess.run(asked, cwd=folder / "tests/mlagent", env={}, check=True)
    told = json.loads((tmp_path / "reward.json").read_text())
    assert told["score"] == 3.0 and "test_score" not in told, "its answers have no part that is test's"


@pytest.mark.parametrize("imports", ["import torch", "import prepare", "from .helper_of_it import ROWS"])
def test_what_a_module_beside_the_grader_lacks_is_refused(task, tmp_path, imports):
    (task.private_dir / "eval.py").write_text(GRADER)
    (task.private_dir / "helper.py").write_text(f"import helper\n{imports}\n")
    (task.private_dir / "prepare.py").write_text("")
    (task.private_dir / "helper_of_it.py").write_text("ROWS = 2\n")
    with pytest.raises(TaskError, match=rf"helper\.py imports {imports.split()[1]}, which"):
        harbor_export.write(tmp_path / "exported", task, TERMS)


def test_its_toml_has_any_character(task, tmp_path):
    metric = 'F₁ of 😀\x7f\t"\\\n'
    harbor_export.write(tmp_path / "exported", replace(task, metric=metric), TERMS)
    assert tomllib.loads((tmp_path / "exported/task.toml").read_text("utf-8"))["metadata"]["metric"] == metric


def test_the_container_has_room_for_its_image_its_files_and_what_experiments_write(task, tmp_path):
    with (task.env_dir / "data.bin").open("wb") as data:
        data.truncate(10 << 20)
    harbor_export.write(tmp_path / "exported", task, TERMS)
    stated = tomllib.loads((tmp_path / "exported/task.toml").read_text("utf-8"))["environment"]["storage_mb"]
    assert stated >= harbor_export.IMAGE_MB + 2 * 10 + 2 * 300, "data.bin is in the image and in tests/"


@pytest.mark.parametrize("at, target", [
    ("env/data.csv", "../scripts/answers.csv"), ("env/data", "../scripts"), ("scripts/inner/x.csv", "/etc/passwd"),
])  # fmt: skip
def test_a_link_that_leads_out_is_refused_by_name(task, tmp_path, at, target):
    link = tmp_path / "task" / at
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(target)
    with pytest.raises(TaskError, match=f"{at} leads to .*, outside the task's folder"):
        harbor_export.write(tmp_path / "exported", task, TERMS)
    assert not (tmp_path / "exported").exists()


def test_a_link_within_its_folder_is_a_file_there(task, tmp_path):
    (task.env_dir / "again.py").symlink_to("train.py")
    harbor_export.write(tmp_path / "exported", task, TERMS)
    again = tmp_path / "exported/environment/files/again.py"
    assert not again.is_symlink() and again.read_text() == "print()\n"
