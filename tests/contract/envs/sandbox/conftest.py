"""Fixtures of the tests that hold for every sandbox backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from envs.records import Task
from envs.sandbox import SandboxPool
from tests.sandbox_task import BACKENDS, make_task, opened


@pytest.fixture(scope="module", params=BACKENDS)
def pool(request: pytest.FixtureRequest) -> Iterator[SandboxPool]:
    with opened(request.param) as of_backend:
        yield of_backend


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return make_task(tmp_path_factory.mktemp("task"))
