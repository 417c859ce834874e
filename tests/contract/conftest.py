"""Fixtures of the tests that hold for every sandbox backend."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from envs.records import Task
from envs.sandbox import SandboxFailure, SandboxPool
from tests.sandbox_task import make_task


@pytest.fixture(scope="module", params=["process", "docker", "gvisor"])
def pool(request: pytest.FixtureRequest) -> Iterator[SandboxPool]:
    os.environ["LEAKED_KEY"] = "secret"
    try:
        opened = SandboxPool(request.param, warm=2)
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the {request.param} sandbox is not to be had: {reason}")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return make_task(tmp_path_factory.mktemp("task"))
