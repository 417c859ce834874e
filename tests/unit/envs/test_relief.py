"""What is given up while memory is short, and taken up again."""

from __future__ import annotations

import pytest

from envs import relief
from envs.admission import Admission, Capacity, Late
from envs.records import Limits
from envs.relief import Relief


@pytest.fixture
def machine(monkeypatch):
    """Sets the share of the memory that is used, and has a `Relief` look; gives what it was told to do."""
    monkeypatch.setattr(relief, "SECONDS", 1000.0)
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.6")
    used, told = [0.0], []
    watching = Relief(told.append, lambda: used[0])

    def machine(share: float) -> list[bool]:
        used[0] = share
        watching.look()
        return told

    yield machine
    watching.close()
    assert not relief.active()


def test_it_begins_below_rays_threshold_once_and_ends_where_there_is_room(machine):
    assert machine(0.54) == [] and not relief.active()
    assert machine(0.56) == [True] and relief.active()
    assert machine(0.58) == machine(0.52) == [True], "it would go to and fro"
    assert machine(0.49) == [True, False] and not relief.active()
    assert machine(0.56) == [True, False, True]


def test_fewer_experiments_are_let_in_than_fit():
    admission = Admission(Capacity(4.0, 4096))
    need = Limits(cpus=1.0, memory_mb=100)
    admission.at_most(1)
    with admission.admit("a", need):
        with pytest.raises(Late), admission.admit("b", need, patience=0):
            pass
        admission.at_most(None)
        with admission.admit("b", need):
            assert admission.running == 2
