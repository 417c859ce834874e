"""What `make test-gpu` runs: on a card, each test; elsewhere none, and it says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
import torch

GPU = torch.cuda.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """pytest hands over those of all folders, once it has come to this one."""
    if not GPU:
        for item in (one for one in items if one.path.is_relative_to(Path(__file__).parent)):
            item.add_marker(pytest.mark.skip(reason="NOT TESTED, there is no GPU on this machine"))


@pytest.fixture(scope="module")
def cluster():
    ray.init(address="local", num_cpus=8, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
