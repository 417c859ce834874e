"""Fixtures of the tests of what is made of a sandbox, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from envs.sandbox import SandboxPool
from tests.sandbox_task import GVISOR_LATER, opened


@pytest.fixture(scope="module", params=GVISOR_LATER)
def pool(request: pytest.FixtureRequest) -> Iterator[SandboxPool]:
    with opened(request.param) as of_backend:
        yield of_backend
