"""What `solve` tells an engine of itself."""

from __future__ import annotations

import os

from actors.policy.arguments import set_environment
from actors.solving.agents import engine_settings
from actors.solving.settings import read_settings


def test_the_engine_finds_all_that_it_reads_of_a_configuration(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    set_environment(engine_settings(read_settings(["model.path=some/model", "actors.cpus=3"]), steps=1))
    assert os.environ["OMP_NUM_THREADS"] == "3"
