"""What links in a task's folder may show: its own files, and what the user has named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from envs.benchmarks import mlebench
from envs.benchmarks.loader import TaskError, load
from tests.harbor_task import make

SECRET = "the answers of another task"
PLAIN = {
    "task.yaml": "metric: accuracy\ndirection: maximize\n",
    "env/train.py": "print()\n",
    "scripts/research_problem.txt": "Predict y.",
    "scripts/eval.py": "def get_score(folder): return 1.0",
}
PACKAGE = {
    "data/public/description.txt": "Predict y.",
    "data/public/sample_submission.csv": "id,y\n1,0\n",
    "data/private/test_answer.csv": "id,y\n1,1\n",
    "utils/metric.py": "class M:\n    higher_is_better = True\n\n    def evaluate(self, a, b):\n        return 1.0\n",
}
SAND = {f"prepared/public/{name}": "x\n1\n" for name in ("description.md", "answer.csv", "sample_submission.csv")}
EVALUATOR = 'print(\'{"score": 1.0, "is_lower_better": true}\')\n'


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLAGENT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere/deeper").mkdir(parents=True)
    for name in ("secret.csv", "deeper/secret.csv"):
        (tmp_path / "elsewhere" / name).write_text(SECRET)
    return tmp_path / "elsewhere"


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def own(folder: Path) -> str:
    return str(written(folder, PLAIN))


def harbor(folder: Path) -> str:
    return f"harbor:{make(folder)}"


def openmle(folder: Path) -> str:
    return f"openmle:{written(folder, PACKAGE)}"


def sandmle(folder: Path) -> str:
    return f"sandmle:{written(folder, {**SAND, 'prepared/public/evaluator.py': EVALUATOR})}"


def cifar(folder: Path) -> str:
    files = {name: text for name, text in PLAIN.items() if name != "task.yaml"}
    written(folder, files).rename(folder.parent / "cifar10")
    folder.symlink_to("cifar10")
    return "mlagentbench:cifar10"


@pytest.mark.parametrize(
    ("form", "place"),
    [
        (own, "env/data.csv"),
        (own, "scripts/answers.csv"),
        (own, "env/deep/er/data"),
        (cifar, "env/data.csv"),
        (openmle, "data/public/train.csv"),
        (openmle, "data/public"),
        (sandmle, "prepared/public/train.csv"),
        (harbor, "tests/more.csv"),
        (harbor, "instruction.md"),
        (harbor, "environment"),
        (harbor, "environment/.dockerignore"),
    ],
)
@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_a_link_out_of_a_tasks_folder_is_refused_by_name(tmp_path, elsewhere, monkeypatch, form, place, relative):
    monkeypatch.setenv("MLAGENTBENCH_DATA", str(tmp_path))
    name, link = form(tmp_path / "task"), tmp_path / "task" / place
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    target = elsewhere / "secret.csv" if "." in link.name else elsewhere
    link.symlink_to(os.path.relpath(target, link.parent.resolve()) if relative else target)
    with pytest.raises(TaskError, match=f"{place} leads to {target}, outside .*MLAGENT_LINKS"):
        load(name)
    assert not any(SECRET in file.read_text() for file in (tmp_path / "cache").rglob("*") if file.is_file())


@pytest.mark.parametrize("form", [own, openmle], ids=["own", "package"])
def test_what_the_user_has_named_and_what_is_the_tasks_own_is_seen_behind_a_link(
    tmp_path, elsewhere, monkeypatch, form: Callable[[Path], str]
):
    name = form(tmp_path / "task")
    shown = tmp_path / "task" / ("env" if form is own else "data/public")
    (shown / "mine.csv").write_text("mine")
    (shown / "again.csv").symlink_to("mine.csv")
    (shown / "big").symlink_to(elsewhere / "deeper")
    (elsewhere / "deeper/more").symlink_to("../more")
    written(elsewhere, {"more/again.csv": SECRET})
    (shown / "big.csv").symlink_to(elsewhere / "secret.csv")
    monkeypatch.setenv("MLAGENT_LINKS", f"/nowhere:{elsewhere}")
    env, before = load(name).env_dir, load(name).digest
    assert not any(path.is_symlink() for path in env.rglob("*"))
    assert (env / "again.csv").read_text() == "mine"
    assert {(env / name).read_text() for name in ("big/secret.csv", "big/more/again.csv", "big.csv")} == {SECRET}
    (elsewhere / "deeper/secret.csv").write_text("changed")
    assert load(name).digest != before


@pytest.mark.parametrize(("target", "said"), [("../../third", "outside"), (".", "circle"), ("..", "circle")])
def test_links_in_what_the_user_has_named_are_looked_at_too(tmp_path, elsewhere, monkeypatch, target, said):
    name = own(tmp_path / "task")
    written(tmp_path / "third", {"secret.csv": SECRET})
    (tmp_path / "task/env/big").symlink_to(elsewhere)
    (elsewhere / "deeper/on").symlink_to(target)
    monkeypatch.setenv("MLAGENT_LINKS", str(elsewhere))
    with pytest.raises(TaskError, match=f"env/big/deeper/on leads .*{said}"):
        load(name)


def test_links_are_followed_to_the_end_and_in_no_circle(tmp_path, elsewhere):
    name = own(tmp_path / "task")
    (tmp_path / "task/other").mkdir()
    (tmp_path / "task/env/way").symlink_to("../other")
    (tmp_path / "task/other/out.csv").symlink_to(elsewhere / "secret.csv")
    with pytest.raises(TaskError, match="out.csv leads to"):
        load(name)
    (tmp_path / "task/other/out.csv").unlink()
    (tmp_path / "task/other/back").symlink_to("../env")
    with pytest.raises(TaskError, match="leads in a circle"):
        load(name)


def test_a_competition_of_mle_bench_is_looked_at_where_its_data_is(tmp_path, elsewhere, monkeypatch):
    prepared = written(tmp_path / "data/ships/prepared", {"public/sample.csv": "id", "private/test.csv": "id"})
    (prepared / "public/train.csv").symlink_to(elsewhere / "secret.csv")
    found = SimpleNamespace(
        id="ships", public_dir=prepared / "public", answers=prepared / "private/test.csv",
        sample_submission=prepared / "public/sample.csv",
    )  # fmt: skip
    monkeypatch.setattr(mlebench, "_competition", lambda *_: found)
    with pytest.raises(TaskError, match="public/train.csv leads to"):
        load("mlebench:ships")


def test_a_script_of_a_packages_own_is_left_to_it(tmp_path):
    name, script = openmle(tmp_path / "task"), tmp_path / "task/data/public/train.py"
    script.write_text("print('theirs')\n")
    assert "theirs" not in (load(name).env_dir / "train.py").read_text()
    assert script.read_text() == "print('theirs')\n"


def test_what_prepare_makes_a_link_of_keeps_its_permissions(tmp_path, elsewhere):
    name = own(tmp_path / "task")
    secret = elsewhere / "secret.csv"
    secret.chmod(0o600)
    (tmp_path / "task/scripts/prepare.py").write_text(f"import os\nos.symlink({str(secret)!r}, '../env/data.csv')\n")
    load(name)
    assert secret.stat().st_mode & 0o777 == 0o600
