"""Processes for whole runs, which files share: most of the time that a run takes in a new one, it imports."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor

import pytest

from tests import apart


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Executor]:
    """One to a core that no other tests use."""
    cores = 1 if "PYTEST_XDIST_WORKER" in os.environ else len(os.sched_getaffinity(0))
    with apart.process(count=cores) as its_own:
        yield its_own
