"""Tasks of Harbor's form become task folders; what no sandbox here has is refused in one sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from envs.benchmarks import dockerfile
from envs.benchmarks.loader import TaskError, load
from envs.records import Direction, Limits
from tests.harbor_task import DOCKERFILE, TASK, make


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLAGENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")


def test_a_published_folder_is_a_task_and_stays_as_it_is(tmp_path):
    folder = make(tmp_path / "adds-up")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    task = load(f"harbor:{folder}")
    assert (task.id, task.metric, task.direction, task.m_best) == ("adds-up", "reward", Direction.MAXIMIZE, 1.0)
    assert task.limits == Limits(seconds=20.0, cpus=1.0, memory_mb=400, disk_mb=32)
    assert (task.script, task.shell, task.parts, task.read_only) == ("solve.sh", True, None, frozenset())
    assert task.editable == {"bill.csv", "readme.txt", "bin/tool.sh"}
    assert task.problem.startswith("Write the sum of bill.csv") and task.problem.endswith("there is no network.")
    assert (task.verifier.workdir, task.verifier.seconds) == ("/app", 20.0)
    assert task.verifier.env == (("PLACE", "here"), ("UNIT", "euro"))
    shown = "".join(path.read_text() for path in task.env_dir.rglob("*") if path.is_file())
    assert "SECRET" not in shown and (task.verifier.tests / "expected.txt").is_file()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert load(f"harbor:{folder}").digest == task.digest
    (folder / "tests" / "expected.txt").write_text("43")
    assert load(f"harbor:{folder}").digest != task.digest


def test_a_link_that_leads_somewhere_in_an_image_only_is_a_link(tmp_path):
    folder, digests = make(tmp_path / "adds-up"), set()
    for version in ("v1", "v2"):
        link = folder / "environment/current"
        link.unlink(missing_ok=True)
        link.symlink_to(f"/opt/tool/{version}")
        digests.add(load(f"harbor:{folder}").digest)
    assert len(digests) == 2


@pytest.mark.parametrize("linked", ["tests", "tests/data", "environment"])
def test_what_changes_in_a_linked_folder_makes_another_task(tmp_path, monkeypatch, linked):
    folder, elsewhere = make(tmp_path / "adds-up"), tmp_path / "elsewhere"
    (folder / "tests/data").mkdir()
    (folder / linked).rename(elsewhere)
    (folder / linked).symlink_to(elsewhere)
    monkeypatch.setenv("MLAGENT_LINKS", str(elsewhere))
    (elsewhere / "bill.csv").write_text("price\n")
    before = load(f"harbor:{folder}").digest
    (elsewhere / "bill.csv").write_text("price\n1\n")
    assert load(f"harbor:{folder}").digest != before


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tests/test.sh": None}, "test.sh is missing"),
        ({"task.toml": "[[steps]\n"}, "task.toml"),
        ({"task.toml": f"{TASK}\n[[steps]]\nname = 'one'\n"}, "several steps"),
        ({"task.toml": TASK.replace("cpus = 1", "os = 'windows'")}, "windows"),
        ({"task.toml": TASK.replace("cpus = 1", "mcp_servers = [{name = 'x'}]")}, "environment.mcp_servers"),
        ({"task.toml": TASK.replace('"euro"', '"${UNIT}"')}, "environment.env.UNIT is to come from the host"),
        ({"task.toml": TASK.replace("[environment.env]", "[verifier.env]")}, "verifier.env"),
        ({"task.toml": TASK.replace("[verifier]", "[verifier]\nenvironment_mode = 'separate'")}, "= 'separate', in"),
        ({"task.toml": "environment = 3\n"}, "environment must be a table, not 3"),
        ({"task.toml": TASK.replace("cpus = 1", "cpus = [1]")}, "a limit in task.toml is no number"),
        (
            {"task.toml": TASK.replace("timeout_sec = 20.0", "timeout_sec = -1")},
            "agent.timeout_sec in task.toml must be",
        ),
        ({"task.toml": TASK.replace("cpus = 1", "memory = 'much'").replace("memory_mb = 400\n", "")}, "like 2G"),
        ({"environment/docker-compose.yaml": "services: {}"}, "a container of its own"),
        ({"tests/Dockerfile": "FROM x"}, "a container of its own"),
        ({"environment/Dockerfile": None}, "neither environment/Dockerfile nor a docker_image"),
        (
            {"environment/Dockerfile": None, "task.toml": TASK.replace("cpus = 1", "docker_image = 'shop:1'")},
            "names the image shop:1, which only sandbox.backend=docker can give, in an image of its own: no Docker Eng",
        ),
        ({"environment/Dockerfile": f"{DOCKERFILE}RUN apt-get update && apt-get install -y gcc\n"}, "`RUN apt-get up"),
        ({"environment/Dockerfile": DOCKERFILE.replace("pandas", "torch")}, "`RUN pip install"),
        ({"environment/Dockerfile": DOCKERFILE.replace("python:3.12-slim", "nvidia/cuda")}, "`FROM nvidia/cuda`"),
        ({"environment/Dockerfile": DOCKERFILE.replace("WORKDIR /app\n", "")}, "works in /,"),
        ({"environment/Dockerfile": DOCKERFILE.replace("WORKDIR /app", "WORKDIR /usr/src")}, "works in /usr/src"),
        ({"environment/Dockerfile": DOCKERFILE.replace("/app/bin/", "/opt/")}, "at /opt/tool.sh, outside"),
        ({"environment/Dockerfile": DOCKERFILE.replace("COPY bill.csv", "COPY sum.csv")}, "sum.csv, which is not"),
        ({"environment/Dockerfile": DOCKERFILE.replace("COPY bill.csv", "COPY ../tests/expected.txt")}, "elsewhere"),
        ({"environment/Dockerfile": f"{DOCKERFILE}FROM debian\n"}, "several stages"),
        ({"environment/Dockerfile": DOCKERFILE.replace("WORKDIR /app", "WORKDIR //usr")}, "works in //usr"),
        ({"environment/Dockerfile": f"{DOCKERFILE}COPY [1, 2]\n"}, "copies 1, which is not there"),
    ],
)
def test_what_no_sandbox_has_is_refused_in_one_sentence(tmp_path, changed, said):
    folder = make(tmp_path / "adds-up", **changed)
    with pytest.raises(TaskError) as refused:
        load(f"harbor:{folder}")
    assert re.search(re.escape(said), str(refused.value)) and "\n" not in str(refused.value)
    assert not list((tmp_path / "cache").rglob("*adds-up*/env"))


def test_sizes_of_earlier_schemas_and_a_stated_working_folder(tmp_path):
    old = TASK.replace("memory_mb = 400", "memory = '1.5G'\nworkdir = '/srv/shop'")
    docker = "from debian:12\nworkdir /srv/shop\ncopy . .\n"
    folder = make(tmp_path / "shop", **{"task.toml": old, "environment/Dockerfile": docker})
    task = load(f"harbor:{folder}")
    assert (task.limits.memory_mb, task.verifier.workdir) == (1536, "/srv/shop")
    assert {"Dockerfile", "bill.csv", "notes/readme.txt", "tool.sh"} == task.editable


@pytest.mark.parametrize(
    ("line", "places"),
    [
        ("COPY a.txt .", {"a.txt"}),
        ("COPY a.txt b", {"b"}),
        ("COPY a.txt b/", {"b/a.txt"}),
        ('COPY ["a.txt", "sub", "in/"]', {"in/a.txt", "in/c.txt"}),
        ("COPY sub /app/x", {"x/c.txt"}),
        ("ADD *.txt deep/er/", {"deep/er/a.txt", "deep/er/b.txt"}),
        ("COPY . .", {"a.txt", "b.txt", "sub/c.txt", "Dockerfile"}),
    ],
)
def test_files_lie_where_docker_would_put_them(tmp_path: Path, line, places):
    for name in ("a.txt", "b.txt", "sub/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "Dockerfile").write_text(f"FROM ubuntu:24.04\nWORKDIR /app\n{line}\n")
    assert set(dockerfile.read(tmp_path / "Dockerfile").files) == places
