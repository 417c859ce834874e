"""Experiments have the packages that a list names and no others, on every backend; wheels are made here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from envs import __main__ as command
from envs.sandbox import SandboxFailure, SandboxPool, installed
from envs.sandbox.requirement_files import RequirementsError
from tests import wheels
from tests.main_job import engine_answers
from tests.sandbox_task import execute, make_task

SHOW = "import toy, os, sys; print(toy.NAME, os.listdir('/packages/mlxtend/data'))\nimport numpy"


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A list of two packages, one with data that tasks are made from, in a cache of its own."""
    folder = tmp_path_factory.mktemp("listed")
    wheels.write(folder, "toy", "1.0", {"toy.py": "NAME = 'first'\n"})
    wheels.write(folder, "mlxtend", "0.1", {"mlxtend/__init__.py": "", "mlxtend/data/digits.csv": "answers"})
    (folder / "needed.txt").write_text("--no-index\n--find-links .\ntoy\nmlxtend==0.1\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLAGENT_CACHE", str(folder / "cache"))
        yield folder / "needed.txt"


@pytest.fixture(params=["process", "docker", "gvisor"])
def of_list(request: pytest.FixtureRequest, listed: Path) -> Iterator[SandboxPool]:
    try:
        opened = SandboxPool(request.param, requirements=str(listed))
    except RequirementsError:
        raise
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the {request.param} sandbox is not to be had: {reason}")
    yield opened
    opened.close()


def test_a_script_finds_these_packages_and_no_others(of_list: SandboxPool, tmp_path: Path) -> None:
    run = execute(of_list, make_task(tmp_path), SHOW)
    assert run.output.startswith("first []\n") and "No module named 'numpy'" in run.output
    assert of_list.packages.names == ("mlxtend", "toy") and "toy==1.0" in of_list.image


def test_a_task_is_checked_with_packages_of_its_own(
    listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    task = make_task(tmp_path)
    (task.env_dir / "train.py").write_text("import toy\nopen('submission.csv', 'w').write('score\\n0.5\\n')\n")
    (task.private_dir / "best.py").write_text("import toy\nopen('submission.csv', 'w').write('score\\n1.0\\n')\n")
    (task.private_dir / "research_problem.txt").write_text("none")
    (tmp_path / "task.yaml").write_text(
        "metric: accuracy\ndirection: maximize\nbest: 1.0\norigin: here\nlicence: none\nsplit: held_in\n"
    )
    asked = ["best", str(tmp_path), "--sandbox", "process"]
    assert command.main(asked) == 1 and "No module named 'toy'" in capsys.readouterr().err
    assert command.main([*asked, f"sandbox.requirements={listed}"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == 1.0
    assert command.main([*asked, f"sandbox.requirements={tmp_path}/none.txt"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture
def closed_to_others() -> Iterator[None]:
    """What this process writes, as where an administrator has it so."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("closed_to_others")
def test_another_build_of_a_version_is_another_set(listed: Path, tmp_path: Path) -> None:
    """So that no experiment is answered from what another one gave; and experiments, as other users, can read it."""
    first = installed.install(str(listed))
    wheels.write(tmp_path, "toy", "1.0", {"toy.py": "NAME = 'second'\n"})
    (tmp_path / "needed.txt").write_text("--no-index\n--find-links .\ntoy\n")
    second = installed.install(str(tmp_path / "needed.txt"))
    assert first.folder != second.folder and (second.folder / "toy.py").read_text() == "NAME = 'second'\n"
    assert all(path.stat().st_mode & 0o004 for path in (second.folder, *second.folder.rglob("*")))
    assert "toy==1.0" in second.pins and not set(second.pins.splitlines()) & set(first.pins.splitlines())


def test_who_is_killed_leaves_nothing_that_counts_and_one_installs_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLAGENT_CACHE", str(tmp_path / "cache"))
    wheels.write(tmp_path, "toy", "1.0", {"toy.py": ""})
    (tmp_path / "needed.txt").write_text("--no-index\n--find-links .\ntoy\n")
    listed = str(tmp_path / "needed.txt")
    ours = "import sys; from envs.sandbox import installed; installed.install(sys.argv[1])"
    killed = subprocess.Popen([sys.executable, "-c", ours, listed])
    place = installed.place(listed)
    end = time.monotonic() + 30
    while not list(place.parent.glob("*.partial-*")) and time.monotonic() < end:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert list(place.parent.glob("*.partial-*")) and not place.exists()
    threads = [threading.Thread(target=installed.install, args=(listed,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (place / "toy.py").exists() and not list(place.parent.glob("*.partial-*"))
    assert len([one for one in caplog.messages if one.startswith("installing")]) == 1
    assert os.stat(place).st_mode & 0o755 == 0o755


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("--no-index\nnowhere==1\n", "needed.txt: pip cannot install it: .*nowhere==1.*: mend that line of the file"),
        ("toy ==== 1\n", "needed.txt: pip cannot install it: Invalid requirement.*toy ==== 1"),
        ("--index-url http://127.0.0.1:9/simple\nnowhere==1\n", "no index of packages answers here.*--find-links"),
        ("--no-index\n", "needed.txt lists no package|needed.txt: pip cannot install it"),
    ],
)
def test_what_cannot_be_installed_is_one_line(
    lines: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLAGENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    (tmp_path / "needed.txt").write_text(lines)
    with pytest.raises(RequirementsError, match=said) as refused:
        installed.install(str(tmp_path / "needed.txt"))
    assert "\n" not in str(refused.value)
    assert [path.suffix for path in (tmp_path / "cache" / "packages").iterdir()] == [".lock"]


@pytest.fixture
def image() -> Iterator[str]:
    """As users make them: Python where PATH leads, and an entry point."""
    import docker

    if not engine_answers():
        pytest.skip("NOT TESTED, no Docker Engine answers")
    engine, name = docker.from_env(timeout=600), "mlagent-of-a-user:test"
    recipe = f"""
        FROM {SandboxPool("docker").image}
        USER 0
        RUN mkdir -p /opt/own/bin && mv "$(readlink -f "$(command -v python3)")" /opt/own/bin/python3
        ENV PATH=/opt/own/bin:/usr/bin:/bin
        ENTRYPOINT ["/bin/false"]
    """
    # Without a network: the bridge may be gone, as an engine of another test's takes it away.
    command = ["docker", "build", "--quiet", "--network=none", f"--tag={name}", "-"]
    done = subprocess.run(command, input=recipe, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    yield name
    engine.images.remove(name, force=True)


def test_an_image_of_ones_own_keeps_its_path_whatever_it_begins_with(image: str, tmp_path: Path) -> None:
    pool = SandboxPool("docker", image)
    try:
        run = execute(pool, make_task(tmp_path), "import os, sys; print(os.environ['PATH'], sys.executable)")
    finally:
        pool.close()
    assert run.output == "/opt/own/bin:/usr/bin:/bin /opt/own/bin/python3\n", run.output
    assert pool.image.startswith("sha256:"), "another content of that name is another image"
    with pytest.raises(SandboxFailure, match="has no image 'mlagent-of-nobody'.*build or pull it"):
        SandboxPool("docker", "mlagent-of-nobody")
