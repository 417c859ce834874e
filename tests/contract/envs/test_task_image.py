"""A task whose Dockerfile asks for more than sandboxes have runs, and is graded, in the image that it makes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest
from docker.errors import APIError

from envs import task_image
from envs.admission import node_capacity
from envs.benchmarks.loader import load
from envs.environment import Environment
from envs.errors import TaskError
from envs.experiments import SandboxRunner
from envs.records import Outcome, Task
from envs.sandbox import SandboxFailure, SandboxPool
from envs.workspace import SnapshotStore
from tests.harbor_task import TASK, make

TEST = """#!/bin/bash
if [ "$(cat total.txt)" = "$(sum bill.csv) $UNIT" ] && [ "$PWD" = /shop ]; then
  echo 1 > /logs/verifier/reward.txt
else
  echo 0.25 > /logs/verifier/reward.txt
fi
"""
TOOL = "#!/bin/bash\ntail -n +2 \"$1\" | paste -sd+ | python3 -c 'print(eval(input()))'\n"


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    try:
        opened = SandboxPool("docker", warm=2)
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the docker sandbox is not to be had: {reason}")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def task(pool: SandboxPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Task]:
    recipe = f"""
        FROM {pool.image}
        USER 0
        COPY tool.sh /opt/shop/bin/sum
        COPY bill.csv notes/ /shop/
        ENV PATH=/opt/shop/bin:/usr/local/bin:/usr/bin:/bin PLACE=there
        WORKDIR /shop
        HEALTHCHECK --interval=50ms CMD touch /shop/seen
        ENTRYPOINT ["/bin/false"]
    """
    folder = tmp_path_factory.mktemp("harbor") / "in-its-image"
    changed = {"environment/Dockerfile": recipe, "environment/tool.sh": TOOL, "tests/test.sh": TEST}
    make(folder, **changed)
    (folder / "environment/notes/users").symlink_to("/etc/passwd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLAGENT_CACHE", str(tmp_path_factory.mktemp("cache")))
        made = replace(load(f"harbor:{folder}"), m_init=0.25)
    yield made
    pool.spare(True)  # what runs in the image goes first
    _forget(made)


@pytest.fixture(scope="module")
def environment(pool: SandboxPool, task: Task, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    store = SnapshotStore(tmp_path_factory.mktemp("snapshots"))
    return Environment({task.id: task}, SandboxRunner(pool, node_capacity()), store)


def _forget(task: Task) -> None:
    engine, end = docker.from_env(), time.monotonic() + 20
    image = task_image.built(engine, task.verifier.build)
    while True:  # a container that has ended may still be on its way out
        try:
            return engine.images.remove(image, force=True)
        except APIError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _tags(engine: docker.DockerClient) -> set[str]:
    known = (tag for image in engine.images.list(task_image.REPOSITORY) for tag in image.tags)
    return {tag for tag in known if tag.startswith(f"{task_image.REPOSITORY}:")}


def shell(environment: Environment, command: str):
    return environment.step(environment.initial_state("in-its-image"), f"Action: Shell\n```\n{command}\n```")


def test_the_plain_files_of_its_working_folder_are_the_tasks(task):
    assert sorted(path.name for path in task.env_dir.iterdir()) == ["bill.csv", "readme.txt", "solve.sh"]
    assert (task.verifier.workdir, task.shell, task.m_best) == ("/shop", True, 1.0)
    assert "/shop" in task.problem and not list(task.env_dir.rglob("*test*"))


def test_actions_and_tests_run_in_the_image_as_restricted_as_others(environment):
    tried = "id -u; touch /opt/shop/mine; ls /tests /sys/class/net; echo $PLACE $UNIT; sum bill.csv; sleep 1; ls seen"
    look = shell(environment, f"({tried}) 2>&1; true").observation.split("\n")
    assert int(look[0]) > 0 and "Read-only file system" in look[1] and "/tests" in look[2], look
    assert look[-3:-1] == ["there euro", "42"] and "lo" in look and "eth0" not in look, look
    assert "seen" in look[-1] and "No such file" in look[-1], "what the image has done at intervals runs beside it"
    solved = shell(environment, 'echo "$(sum bill.csv) $UNIT" > total.txt')
    assert (solved.outcome, solved.score_after) == (Outcome.EDITED, 1.0), solved.observation
    assert shell(environment, "echo 41 > total.txt").score_after == 0.25


def test_an_image_that_this_machine_does_not_have_is_built_where_it_is_needed(environment, task, pool):
    pool.spare(True)
    pool.spare(False)
    _forget(task)
    assert shell(environment, 'echo "$(sum bill.csv) euro" > total.txt; true').score_after == 1.0


def test_sandboxes_without_images_refuse_it_with_what_to_set(task):
    try:
        other = SandboxPool("process")
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the process sandbox is not to be had: {reason}")
    with pytest.raises(TaskError, match=r"in-its-image.* process .*sandbox\.backend=docker"), other.acquire(task):
        pass
    other.close()


SLOW = "FROM {image}\nWORKDIR /shop\nRUN for second in $(seq 60); do echo $second; sleep 1; done\n"


@pytest.mark.parametrize(
    ("recipe", "stated", "said"),
    [
        ("FROM {image}\nUSER 0\nCOPY bill.csv /shop/\n", "", "works in /"),
        ("FROM {image}\nUSER 0\nCOPY bill.csv /shop/\n", "workdir = '/elsewhere'", "/elsewhere cannot be read"),
        ("FROM {image}\nWORKDIR /shop\nENV PATH=/nowhere\n", "", "does not run python3"),
        ("FROM {image}\nUSER 0\nWORKDIR /shop\nRUN chmod 700 $(readlink -f /bin/bash)\n", "", "does not run bash"),
        (
            "FROM {image}\nUSER 0\nRUN mkdir /shop && mv /bin/bash /shop\nENV PATH=/bin:/usr/bin:/usr/local/bin:/shop",
            "workdir = '/shop'",
            "does not run bash",
        ),
        ("FROM {image}\nWORKDIR /shop\nCOPY nothing .\n", "", "its image cannot be built"),
        (SLOW, "build_timeout_sec = 2", "not built in 2 s"),
        (None, "workdir = '/opt'", ""),
    ],
)
def test_what_cannot_be_run_is_one_line(pool: SandboxPool, tmp_path: Path, monkeypatch, recipe, stated, said):
    monkeypatch.setenv("MLAGENT_CACHE", str(tmp_path / "cache"))
    environment = f"{stated}\ncpus = 1"
    if recipe:
        recipe = recipe.format(image=pool.image)
    else:
        environment = f"docker_image = '{pool.image}'\n{environment}"
    changed = {"environment/Dockerfile": recipe, "task.toml": TASK.replace("cpus = 1", environment)}
    folder, engine = make(tmp_path / "shop", **changed), docker.from_env()
    before, running = _tags(engine), {container.id for container in engine.containers.list()}
    if said:
        with pytest.raises(TaskError, match=said) as refused:
            load(f"harbor:{folder}")
        assert "\n" not in str(refused.value) and "sandbox.backend=docker" in str(refused.value)
    else:  # an image that is named, and so not built of the folder
        assert load(f"harbor:{folder}").verifier.workdir == "/opt"
    end = time.monotonic() + 20
    while left := {container.id for container in engine.containers.list()} - running:
        assert time.monotonic() < end, f"what was given up goes on: {left}"
        time.sleep(0.2)
    for tag in _tags(engine) - before:
        engine.images.remove(tag)
