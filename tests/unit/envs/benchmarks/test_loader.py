"""Loading task folders: prepared once and whole, protected, and every mistake of an author named."""

import dataclasses
import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from envs import splits
from envs.benchmarks import content
from envs.benchmarks.loader import TaskError, builtin_tasks, limited, load
from envs.records import Direction, Limits
from learner.config.schema import LimitsConfig

YAML = """
metric: accuracy
direction: maximize
best: 0.9
best_from: a guess
origin: made up
licence: CC0
limits: {seconds: 5}
"""
PREPARE = """
import pathlib
pathlib.Path("../env/data").mkdir()
pathlib.Path("../env/data/train.csv").write_text("x,y")
pathlib.Path("answers.csv").write_text("y")
with open(%r, "a") as log:
    log.write("ran ")
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLAGENT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tasks"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A task of a user's own."""
    folder = tmp_path / "mine"
    for file, text in {
        "task.yaml": YAML,
        "env/train.py": "print()",
        "env/task_descriptor.txt": "data",
        "scripts/research_problem.txt": "Predict y.\n",
        "scripts/eval.py": "def get_score(folder): return 1.0",
        "scripts/prepare.py": PREPARE % str(tmp_path / "log"),
    }.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    return folder


def test_a_task_is_made_anew_where_what_splits_its_data_has_changed(folder, tmp_path, monkeypatch):
    before = load(folder)
    changed = tmp_path / "splits.py"
    changed.write_text(Path(splits.__file__).read_text() + "# another way\n")
    monkeypatch.setattr(splits, "__file__", str(changed))
    assert load(folder).digest != before.digest


def test_a_folder_of_ones_own(folder):
    task = load(folder)
    assert (task.id, task.metric, task.direction, task.m_best) == ("mine", "accuracy", Direction.MAXIMIZE, 0.9)
    assert task.limits == Limits(seconds=5) and task.problem == "Predict y."
    assert task.read_only == {"data/train.csv"} and task.editable == {"task_descriptor.txt"}
    assert (task.private_dir / "answers.csv").exists() and not list(task.env_dir.rglob("answers*"))
    assert not (folder / "env" / "data").exists()  # the author's folder is left alone


def test_files_are_kept_where_task_yaml_says_so(folder):
    assert load(folder).keep == ()
    (folder / "task.yaml").write_text(f"{YAML}keep: ['*.pkl']\nkeep_mb: 3")
    assert (load(folder).keep, load(folder).keep_mb) == (("*.pkl",), 3)


@pytest.mark.parametrize(
    ("stated", "actions", "shell"),
    [
        ("", "native", False),
        ("native", "native", False),
        ("[shell]", "native", True),
        ("mlagentbench", "mlagentbench", False),
    ],
)
def test_commands_are_allowed_where_task_yaml_says_so(folder, stated, actions, shell):
    (folder / "task.yaml").write_text(f"{YAML}actions: {stated}" if stated else YAML)
    assert (load(folder).actions, load(folder).shell) == (actions, shell)


def test_a_runs_limits_take_the_place_of_the_tasks_own(folder):
    task = load(folder)
    own = LimitsConfig()
    assert limited(task, own) == task and own.gpus == -1
    given = LimitsConfig(seconds=3600.0, memory_mb=8192, gpus=0)
    assert limited(task, given).limits == dataclasses.replace(task.limits, seconds=3600.0, memory_mb=8192, gpus=0)


def test_prepared_once_by_many_and_again_when_it_changes(folder, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        assert len({task.env_dir for task in pool.map(load, [folder] * 4)}) == 1
    assert (tmp_path / "log").read_text() == "ran "
    (folder / "env" / "train.py").write_text("print(2)")
    assert (load(folder).env_dir / "train.py").read_text() == "print(2)"
    assert (tmp_path / "log").read_text() == "ran ran "


@pytest.mark.parametrize("protected", ["data", "./data/", "data/*", "*.csv"])
def test_read_only_files_says_what_may_not_be_changed_and_nothing_else_is(folder, protected):
    (folder / "env" / "model.py").write_text("x = 1")
    (folder / "env" / "more.tsv").write_text("x")
    (folder / "scripts" / "read_only_files.txt").write_text(f"\n{protected}\n\n")
    task = load(folder)
    assert task.read_only == {"data/train.csv"}
    assert task.editable == {"task_descriptor.txt", "model.py", "more.tsv"}


def test_a_file_is_read_once_as_long_as_it_stays_what_it_is(folder, monkeypatch):
    read: list[str] = []

    def digest(opened, algorithm):
        read.append(Path(opened.name).name)
        return hashlib.sha256(opened.read())

    monkeypatch.setattr(content.hashlib, "file_digest", digest)
    before = load(folder)
    assert "eval.py" in read and read.clear() is None
    assert load(folder).digest == before.digest
    assert "eval.py" in read, "what is young may change without a trace"
    monkeypatch.setattr(content, "SETTLED_NS", -1)
    load(folder)
    read.clear()
    assert load(folder).digest == before.digest and not read
    script, about = folder / "env/train.py", (folder / "env/train.py").stat()
    script.write_text("print(1)"[: about.st_size].ljust(about.st_size, "#"))
    os.utime(script, ns=(about.st_atime_ns, about.st_mtime_ns))
    changed = load(folder)
    assert changed.digest != before.digest and read == ["train.py"]
    (record,) = (folder.parent / "cache/content").iterdir()
    record.write_text("damaged")
    assert load(folder).digest == changed.digest
    record.unlink()
    record.mkdir()
    assert load(folder).digest == changed.digest and list(record.parent.iterdir()) == [record], "nothing is left"


def test_read_only_files_protects_a_script(folder):
    (folder / "scripts" / "read_only_files.txt").write_text("./train.*\n")
    assert "train.py" in load(folder).read_only


def test_a_name_with_a_blank_is_protected(folder):
    (folder / "task.yaml").write_text(YAML + "script: my train.py")
    (folder / "env" / "train.py").rename(folder / "env" / "my train.py")
    (folder / "scripts" / "read_only_files.txt").write_text("my train.py\n")
    assert "my train.py" in load(folder).read_only


@pytest.mark.parametrize("name", ["env/train.py", "scripts/research_problem.txt"])
def test_a_file_that_is_no_text_is_named(folder, name):
    (folder / name).write_bytes(b"caf\xe9")
    with pytest.raises(TaskError, match=f"{name} is not a readable text file"):
        load(folder)


def test_a_prepare_that_removes_the_script_is_noticed(folder):
    (folder / "scripts" / "prepare.py").write_text("import os; os.remove('../env/train.py')")
    with pytest.raises(TaskError, match=r"env/train\.py is not a readable"):
        load(folder)


def test_a_failing_prepare_is_named_and_leaves_nothing(folder, cache):
    (folder / "scripts" / "prepare.py").write_text("raise SystemExit('no data here')")
    with pytest.raises(TaskError, match=r"scripts/prepare\.py failed(.|\n)*no data here"):
        load(folder)
    (folder / "scripts" / "prepare.py").unlink()
    assert load(folder).read_only == frozenset()
    made = {path.name for path in cache.iterdir() if path.suffix not in (".lock", ".partial")}
    assert {name.partition("-parts-")[0] for name in made} == {load(folder).env_dir.parent.name}


def test_what_a_benchmark_has_prepared_is_not_prepared_again(folder, tmp_path):
    (folder / "scripts/prepare.py").write_text("input('Consent to the rules; press any key')")
    with pytest.raises(
        TaskError, match=r"prepare\.py asks for input: run it yourself, in .*create the file .*prepared"
    ):
        load(folder)
    (folder / "scripts/prepared").write_text("success")
    (folder / "env/train.csv").write_text("x,y\n")
    assert load(folder).read_only == {"train.csv"}


@pytest.mark.parametrize("name", ["task.yaml", "env/train.py", "scripts/eval.py", "scripts/research_problem.txt"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(TaskError, match=f"{name} is missing"):
        load(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("metric:", "metrik:", "no key 'metrik'; did you mean 'metric'"),
        ("seconds:", "second:", "no key 'limits.second'; did you mean 'seconds'"),
        ("maximize", "up", "direction must be one of maximize, minimize, not 'up'"),
        ("best: 0.9", "best: high", "best"),
        ("best: 0.9", "best: .nan", "best must be a finite number"),
        ("seconds: 5", "seconds: 0", r"limits\.seconds must be above 0"),
        ("seconds: 5", "seconds: .inf", r"limits\.seconds must be above 0 and finite"),
        ("best_from:", "script: ../scripts/eval.py\nbest_from:", "script must be a path inside env/"),
        ("best_from:", "rows: [train.csv, /mine/data.csv]\nbest_from:", "rows must be a path inside env/, not '/mine"),
        ("best_from:", "verifier: {tests: ../../mine}\nbest_from:", "verifier.tests must be a path inside scripts/"),
        ("best_from:", "verifier: {build: {folder: /}}\nbest_from:", "verifier.build.folder must be a path inside"),
        ("best_from:", "verifier: {workdir: /app/../usr}\nbest_from:", "verifier.workdir must be an absolute path"),
        ("accuracy", "${oc.env:HOME}", "nothing is filled in here, least of all from the host"),
        ("best_from:", "verifier: {env: {KEY: 'x${oc.env:HOME}'}}\nbest_from:", "nothing is filled in here"),
        ("direction: maximize", "", "direction missing"),
        ("best_from:", "actions: all\nbest_from:", "actions must be some of native, mlagentbench, shell, not all"),
        ("best_from:", "keep_mb: 0\nbest_from:", "keep_mb must be at least 1"),
        ("best_from:", "actions: [mlagentbench, shell]\nbest_from:", "mlagentbench come alone"),
        ("best_from:", "split: test\nbest_from:", "split must be one of held_in, held_out, not 'test'"),
        ("metric:", "metric: [", "task.yaml"),
    ],
)
def test_a_wrong_task_yaml_is_explained(folder, old, new, message):
    (folder / "task.yaml").write_text(YAML.replace(old, new))
    with pytest.raises(TaskError, match=message) as error:
        load(folder)
    assert str(folder / "task.yaml") in str(error.value)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(TaskError, match="did you mean diabetes") as error:
        load("diabtes")
    assert all(name in str(error.value) for name in builtin_tasks())


def test_a_folder_is_found_under_any_of_its_names(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    shutil.copytree(folder, "wine_copy")
    assert load("wine_copy").id == "wine_copy" and load(folder).id == load("./mine").id == "mine"


def test_the_file_in_the_folder_goes_before_the_one_beside_it(folder):
    folder.with_name("mine.yaml").write_text(YAML.replace("0.9", "0.8"))
    assert load(folder).m_best == 0.9
    (folder / "task.yaml").unlink()
    assert load(folder).m_best == 0.8


def test_what_experiments_read_other_users_may_read(folder):
    """They run as another user, whatever the author's files allow."""
    (folder / "env" / "train.py").chmod(0o600)
    env = load(folder).env_dir
    for path in (env, *env.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_a_file_of_another_name_makes_another_task(folder):
    before = load(folder)
    (folder / "env" / "task_descriptor.txt").rename(folder / "env" / "task_descriptors.txt")
    after = load(folder)
    assert after.digest != before.digest and "task_descriptors.txt" in after.editable


def test_a_share_of_the_rows_leaves_the_whole_task_as_it_is_and_takes_no_room_for_the_rest(folder):
    (folder / "task.yaml").write_text(f"{YAML}rows: [rows.csv]\n")
    rows = "x\n" + "".join(f"{i}\n" for i in range(500))
    (folder / "env" / "rows.csv").write_text(rows)
    whole, tenth = load(folder), load(f"{folder}@0.1")
    assert (whole.env_dir / "rows.csv").read_text() == rows
    assert len((tenth.env_dir / "rows.csv").read_text().splitlines()) == 51
    assert {path.name for path in tenth.env_dir.iterdir()} == {path.name for path in whole.env_dir.iterdir()}
    assert (tenth.env_dir / "train.py").samefile(whole.env_dir / "train.py")


def test_answers_are_divided_once_for_all_fidelities_and_not_where_the_author_says_so(folder, caplog):
    rows = "".join(f"{i},{i}\n" for i in range(50))
    (folder / "scripts" / "prepare.py").unlink()
    (folder / "scripts" / "answers.csv").write_text(f"id,y\n{rows}")
    (folder / "env" / "rows.csv").write_text(f"id,x\n{rows}")
    (folder / "task.yaml").write_text(f"{YAML}rows: [rows.csv]\n")
    whole, tenth = load(folder), load(f"{folder}@0.1")
    assert whole.parts == tenth.parts and whole.undivided == "" and not caplog.text
    assert not [path for path in whole.parts.rglob("*") if whole.env_dir in path.parents]
    (folder / "task.yaml").write_text(f"{YAML}parts: false\n")
    undivided = load(folder)
    assert undivided.parts is None and "parts: false" in undivided.undivided and "parts: false" in caplog.text
