"""The pool of sandboxes: which backend it takes, which sandboxes it keeps, and what it says where it cannot."""

from __future__ import annotations

import contextlib
import os
import shutil
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
from docker import APIClient
from docker.errors import APIError
from docker.models.containers import Container

from envs import sandbox
from envs.admission import Capacity
from envs.experiments import SandboxRunner
from envs.records import Limits, Task
from envs.sandbox import SandboxFailure, SandboxPool, cgroup
from envs.sandbox.docker import LABEL
from envs.workspace import restore
from tests.cards import card_devices
from tests.sandbox_task import BACKENDS, GVISOR_LATER, execute, make_task


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    try:
        SandboxPool(request.param).close()
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the {request.param} sandbox is not to be had: {reason}")
    return request.param


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return make_task(tmp_path_factory.mktemp("task"))


@pytest.mark.parametrize("backend", GVISOR_LATER, indirect=True, scope="module")
def test_closing_refuses_newcomers_and_ends_those_at_work(backend: str, task: Task) -> None:
    own = SandboxPool(backend)
    with own.acquire(task) as sandbox:
        own.close()
        with pytest.raises(SandboxFailure, match="closed"), own.acquire(task):
            pass
    assert not sandbox.workspace.exists()


def test_a_container_that_did_not_start_is_deleted_as_soon_as_the_engine_does_so(task: Task, monkeypatch) -> None:
    """It deletes those that ran by itself, and of one that crashed meanwhile these alone."""
    try:
        own = SandboxPool("docker")
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the docker sandbox is not to be had: {reason}")

    def ours() -> set[str]:
        listed = docker.from_env().containers.list(all=True, filters={"label": f"{LABEL}={os.getpid()}"})
        return {one.id for one in listed}

    def away(*_: Any, **__: Any) -> None:
        raise APIError("it is away")

    before = ours()
    with contextlib.closing(own):
        with monkeypatch.context() as patch:
            patch.setattr(Container, "start", away)
            patch.setattr(APIClient, "remove_container", away)
            with pytest.raises(SandboxFailure, match="it is away"), own.acquire(task):
                pass
        left = ours() - before
        assert left
        with own.acquire(task):
            assert not left & ours()


def test_an_experiment_sees_its_own_card_alone(task: Task, tmp_path: Path, monkeypatch) -> None:
    """Of stand-ins, on the one backend that needs no driver for them."""
    card_devices(tmp_path / "dev", monkeypatch)
    try:
        own = SandboxPool("process")
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the process sandbox is not to be had: {reason}")
    script = """
        import os, resource
        cards = sorted(name for name in os.listdir("/dev") if "nvidia" in name)
        print(*cards, os.path.samefile("/dev/nvidia1", "/dev/null"), open("/dev/nvidia1", "wb").write(b"x"))
        print(resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY)
    """
    try:
        with own.acquire(replace(task, limits=replace(task.limits, gpus=1)), (1,)) as sandbox:
            restore(task, {task.script: textwrap.dedent(script)}, sandbox.workspace)
            run = sandbox.run([task.script], task.limits)
        assert run.output == "nvidia-uvm nvidia1 nvidiactl True 1\nTrue\n", run.output
        with pytest.raises(SandboxFailure, match=r"no .*nvidia7"), own.acquire(task, (7,)):
            pass
    finally:
        own.close()


def test_one_sandbox_serves_every_task_and_shows_each_its_own_only(backend: str, tmp_path: Path) -> None:
    """Also limits are each task's own: memory that one has is too much for the other."""
    script = """
        import os
        print(*(os.path.join(top, name) for top, _, names in sorted(os.walk("/task")) for name in sorted(names)))
        print(open("train.csv").read(), open("data/own.txt").read(), flush=True)
        print(len([bytearray(10 << 20) for _ in range(60)]))
    """
    own, sandboxes = SandboxPool(backend), set()
    small = Limits(seconds=20, memory_mb=200, disk_mb=32, processes=24)
    tasks = {name: make_task(tmp_path / name, small) for name in ("first", "second")}
    tasks["second"] = replace(tasks["second"], limits=replace(small, memory_mb=700))
    for name, task in tasks.items():
        (task.env_dir / "train.csv").write_text(name)
        (task.env_dir / "data/own.txt").write_text(name * 2)
        (task.env_dir / "data" / name).write_text("")
    for name, status in (("first", "out_of_memory"), ("second", "ok"), ("first", "out_of_memory")):
        with own.acquire(tasks[name]) as sandbox:
            sandboxes.add(sandbox)
            restore(tasks[name], {"train.py": textwrap.dedent(script)}, sandbox.workspace)
            result = sandbox.run(["train.py"], tasks[name].limits)
        files = sorted([f"/task/data/{name}", "/task/data/own.txt", "/task/data/part.txt"])
        assert result.output.splitlines()[0] == " ".join(["/task/train.csv", "/task/train.py", *files]), result
        assert result.output.splitlines()[1] == f"{name} {name * 2}" and result.status == status, result
    assert own.starts == len(sandboxes) == 1
    own.close()
    assert not sandbox.workspace.exists()


@pytest.mark.parametrize("backend", GVISOR_LATER, indirect=True, scope="module")
def test_once_warm_no_experiment_of_any_task_waits_for_a_start(backend: str, tmp_path: Path) -> None:
    own = SandboxPool(backend, warm=0)
    runner = SandboxRunner(own, Capacity(cpus=3, memory_mb=3000))
    tasks = [make_task(tmp_path / str(number)) for number in range(4)]
    runner.expect(tasks)
    deadline = time.monotonic() + 60
    while own.idle < 3:
        assert time.monotonic() < deadline, "they do not start"
        time.sleep(0.05)
    script = "open('submission.csv', 'w').write(open('train.csv').read()[-2])"
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda n: runner.run(tasks[n % 4], {"train.py": f"{script}  # {n}"}), range(24)))
    assert [result.score for result in results] == [1.0] * 24, results
    assert (own.starts, own.idle) == (3, 3)
    runner.close()
    assert own.idle == 0


def test_a_backend_that_is_missing_names_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(SandboxFailure, match="Docker Engine"):
        SandboxPool("docker")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SandboxFailure, match="apt-get install bubblewrap"):
        SandboxPool("process")


def test_without_control_groups_each_process_is_limited(monkeypatch: pytest.MonkeyPatch, task: Task) -> None:
    """As on a host where we are not root, or may not make control groups."""
    monkeypatch.setattr(cgroup, "make", lambda *_, **__: None)
    try:
        own = SandboxPool("process")
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the process sandbox is not to be had: {reason}")
    assert execute(own, task, "kept = []\nwhile True: kept.append(bytearray(10 << 20))").status == "out_of_memory"
    assert execute(own, task, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)").status == "error"
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: os._exit(5)"
    assert execute(own, task, bomb).status in ("error", "timeout")
    assert execute(own, task, "print('well')").output == "well\n"
    own.close()


@pytest.fixture(params=["process", *(pytest.param(name, marks=pytest.mark.long) for name in ("docker", "gvisor"))])
def with_pytorch(request: pytest.FixtureRequest) -> Iterator[SandboxPool]:
    """A Docker image of its own is built for it, once."""
    try:
        pool = SandboxPool(request.param, packages="torch")
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the {request.param} sandbox with PyTorch is not to be had: {reason}")
    yield pool
    pool.close()


def test_pytorch_is_there_where_it_is_asked_for(with_pytorch: SandboxPool, tmp_path: Path) -> None:
    """An optimizer's steps are noticed, the seed is PyTorch's too, and scikit-learn is there as well."""
    script = """
        import sklearn, torch
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.rand(8, 3)).pow(2).mean().backward(); optimizer.step()
        print(torch.rand(1).item(), torch.get_num_threads())
    """
    task = make_task(tmp_path, Limits(seconds=20, memory_mb=600))
    results = []
    with with_pytorch.acquire(task) as sandbox:
        for seed in (1, 1, 2):
            restore(task, {task.script: textwrap.dedent(script)}, sandbox.workspace)
            results.append(sandbox.run([task.script], task.limits, seed=seed))
    assert results[0].milestones == ("model_fitted",) and results[0].output.endswith(" 1\n"), results[0].output
    assert results[0].output == results[1].output != results[2].output


@pytest.mark.parametrize("backend", GVISOR_LATER, indirect=True, scope="module")
def test_a_users_own_script_finds_the_data_that_packages_bundle_and_a_task_none(backend: str, task: Task) -> None:
    """A Docker image of its own is made for it, once."""
    said = {}
    for bundled in (True, False):
        pool = SandboxPool(backend, bundled_data=bundled)
        said[bundled] = execute(
            pool, task, "import sklearn.datasets as d; print(len(d.load_breast_cancer().data))"
        ).output
        pool.close()
    assert said[True] == "569\n" and "Error" in said[False] and "569" not in said[False]


def test_the_engine_that_docker_host_names_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, task: Task) -> None:
    """Another name of the same socket: with the usual one gone from view, experiments run all the same."""
    usual = Path("/var/run/docker.sock")
    if not usual.is_socket():
        pytest.skip("NOT TESTED, no Docker Engine listens at its usual socket")
    other = tmp_path / "engine.sock"
    other.symlink_to(usual)
    monkeypatch.setattr("docker.constants.DEFAULT_UNIX_SOCKET", "http+unix:///nowhere/docker.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{other}")
    own = SandboxPool("docker")
    assert execute(own, task, "print('well')").output == "well\n"
    own.close()


@pytest.mark.parametrize(("without", "chosen"), [((), "gvisor"), (("runsc",), "process")])
def test_auto_takes_the_strongest_that_works_and_says_why_not_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, without: tuple[str, ...], chosen: str
) -> None:
    try:
        SandboxPool(chosen)
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the {chosen} sandbox is not to be had: {reason}")
    which = shutil.which
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    monkeypatch.setattr(shutil, "which", lambda name: None if name in without else which(name))
    sandbox._tell.cache_clear()
    assert [SandboxPool("auto").name for _ in range(2)] == [chosen] * 2
    assert caplog.text.count("not docker: no Docker Engine answers") == 1, "it is told once"
    assert not without or "not gvisor: " in caplog.text
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SandboxFailure, match="no sandbox works here; not docker: .* not gvisor: .* not process: "):
        SandboxPool("auto")
