"""Admission: never more than fits, long ones first, and nobody starved."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs import machine
from envs.admission import Admission, AdmissionError, Capacity, Late, node_capacity
from envs.records import Limits


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Crowd:
    """Experiments in threads of their own, which hold what they got until they are let go."""

    def __init__(self, admission: Admission):
        self.admission, self.started = admission, []
        self._holds: dict[str, threading.Event] = {}
        self._threads: dict[str, threading.Thread] = {}

    def come(self, name: str, key: str = "task", alone: bool = False, **need) -> None:
        hold = self._holds[name] = threading.Event()

        def run() -> None:
            with self.admission.admit(key, Limits(**need), alone) as gpus:
                self.started.append((name, gpus) if need.get("gpus") else name)
                hold.wait(10)

        self._threads[name] = threading.Thread(target=run, daemon=True)
        self._threads[name].start()
        self._settle()

    def go(self, name: str) -> None:
        self._holds[name].set()
        self._threads[name].join(10)
        self._settle()

    def _settle(self) -> None:
        """Wait until everybody holds something or stands in a line of which the first does not fit."""
        admission, end = self.admission, time.monotonic() + 10
        while time.monotonic() < end:
            alive = {name for name, thread in self._threads.items() if thread.is_alive()}
            names = {one[0] if isinstance(one, tuple) else one for one in self.started}
            with admission._changed:
                line = admission._line
                stuck = not line or not admission._fits(admission._next())
                if stuck and admission.running == len(alive & names) == len(alive) - len(line):
                    return
            time.sleep(0.001)
        raise AssertionError("the crowd does not come to rest")

    def end(self) -> None:
        for hold in self._holds.values():
            hold.set()
        for thread in self._threads.values():
            thread.join(10)


@pytest.fixture
def crowd():
    made = []

    def of(capacity: Capacity, clock=time.monotonic) -> Crowd:
        made.append(Crowd(Admission(capacity, clock)))
        return made[-1]

    yield of
    for one in made:
        one.end()


def test_no_more_start_than_fit_in_cores_or_memory(crowd):
    here = crowd(Capacity(cpus=2, memory_mb=3000))
    for name in "abc":
        here.come(name, cpus=1, memory_mb=500)
    assert here.started == ["a", "b"]
    here.go("a")
    assert here.started == ["a", "b", "c"]
    here.go("b")
    here.come("large", cpus=1, memory_mb=2800)
    assert "large" not in here.started
    here.go("c")
    assert here.started[-1] == "large"


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_as_many_are_held_as_fit_beside_each_other(cpus, memory, of_cpus, of_memory):
    held = Capacity(cpus, memory).holds(Limits(cpus=of_cpus, memory_mb=of_memory))
    assert held * of_cpus <= cpus and held * of_memory <= memory
    assert (held + 1) * of_cpus > cpus or (held + 1) * of_memory > memory


@given(st.integers(0, 9), st.integers(1, 4))
def test_each_experiment_has_gpus_of_its_own_and_none_is_left_that_makes_a_set(gpus, number):
    ids = tuple(range(gpus))
    sets = Capacity(1, 1, ids).sets_of_gpus(number)
    assert all(len(own) == number for own in sets)
    shared_out = [gpu for own in sets for gpu in own]
    assert tuple(shared_out) == ids[: len(shared_out)] and gpus - len(shared_out) < number
    assert Capacity(1, 1, ids).sets_of_gpus(0) == [()]


def test_gpus_that_are_given_back_join_those_that_were_free(crowd):
    here = crowd(Capacity(cpus=9, memory_mb=1e6, gpus=(0, 1)))
    here.come("one", gpus=1)
    here.go("one")
    here.come("both", gpus=2)
    assert [(name, sorted(gpus)) for name, gpus in here.started[1:]] == [("both", [0, 1])]


def test_the_longest_goes_first_and_waiting_makes_up_for_being_short(crowd):
    clock = Clock()
    here = crowd(Capacity(cpus=1, memory_mb=1e6), clock)
    for key, seconds in (("short", 1.0), ("long", 60.0)):
        here.come(key, key=key)
        clock.now += seconds
        here.go(key)
    here.come("holder", key="short")
    here.come("first short", key="short")
    here.come("long one", key="long")
    here.go("holder")
    assert here.started[-1] == "long one"
    clock.now += 70
    here.come("another long", key="long")
    here.go("long one")
    assert here.started[-1] == "first short", "it has waited longer than the other will take"


def ran(here: Crowd, clock: Clock, key: str, *seconds: float) -> None:
    for number, spent in enumerate(seconds):
        here.come(f"{key} {number}", key=key)
        clock.now += spent
        here.go(f"{key} {number}")


def test_what_experiments_of_a_kind_took_is_remembered_and_the_last_of_them_decides_little(crowd):
    clock = Clock()
    here = crowd(Capacity(cpus=1, memory_mb=1e6), clock)
    ran(here, clock, "steady", 20.0, 20.0)
    ran(here, clock, "mostly long", 60.0, 60.0, 1.0)
    ran(here, clock, "mostly short", 1.0, 1.0, 60.0)  # expected to take 18.7 s
    ran(here, clock, "grown", 1.0, 60.0, 60.0, 60.0, 60.0)
    here.come("holder", key="steady")
    for key in ("grown", "mostly short", "steady", "mostly long", "not tried yet"):
        here.come(key, key=key, seconds=30)
    order = []
    for name in ("holder", "grown", "mostly long", "not tried yet", "steady", "mostly short"):
        order.append(here.started[-1])
        here.go(name)
    assert order == ["holder", "grown", "mostly long", "not tried yet", "steady", "mostly short"]


def test_an_experiment_that_fails_gives_its_share_back(crowd):
    admission = Admission(Capacity(cpus=1, memory_mb=1000, gpus=(3,)))
    for _ in range(2):
        with pytest.raises(OSError), admission.admit("task", Limits(gpus=1, memory_mb=1000)) as gpus:
            raise OSError(f"no room beside {gpus}")
    assert admission.running == 0


def test_whoever_fits_beside_the_first_in_line_starts_with_it(crowd):
    here = crowd(Capacity(cpus=2, memory_mb=1e6))
    here.come("holder", cpus=2)
    here.come("short", cpus=1, seconds=1)
    here.come("long", cpus=1, seconds=100)
    here.go("holder")
    assert sorted(here.started[1:]) == ["long", "short"]


def test_what_fits_exactly_starts(crowd):
    here = crowd(Capacity(cpus=2, memory_mb=3000, gpus=(0, 1)))
    here.come("whole", cpus=2, memory_mb=3000, gpus=2)
    here.go("whole")
    here.come("a", cpus=1, memory_mb=1000, gpus=1)
    here.come("b", cpus=1, memory_mb=2000, gpus=1)
    assert len(here.started) == 3


@pytest.mark.parametrize(("cores", "actors", "each"), [(8.0, 1, 8.0), (8.0, 4, 2.0), (2.0, 4, 1.0)])
def test_the_actors_of_a_node_share_its_cores_and_half_of_its_memory(monkeypatch, cores, actors, each):
    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.setattr(machine, "memory_mb", lambda: 6000.0)
    assert node_capacity(actors) == Capacity(each, 3000.0 / actors)
    assert node_capacity() == node_capacity(1)


def test_the_first_in_line_is_not_passed_by_smaller_ones(crowd):
    here = crowd(Capacity(cpus=2, memory_mb=1e6))
    here.come("a", cpus=1)
    here.come("both cores", cpus=2, seconds=100)
    here.come("small", cpus=1, seconds=1)
    assert here.started == ["a"]
    here.go("a")
    assert here.started == ["a", "both cores"]


def test_what_is_to_run_alone_waits_for_what_runs_passes_the_line_and_has_nothing_beside_it(crowd):
    here = crowd(Capacity(cpus=4, memory_mb=1e6, gpus=(0,)))
    here.come("a", cpus=1)
    here.come("whole", cpus=4, seconds=1000)
    here.come("alone", alone=True, gpus=1, cpus=1, seconds=1)
    here.come("small", cpus=1)
    assert here.started == ["a"]
    here.go("a")
    assert here.started[1:] == [("alone", (0,))]
    here.come("alone too", alone=True, cpus=1)
    here.go("alone")
    here.go("alone too")
    assert here.started[2:] == ["alone too", "whole"]


def test_what_was_not_admitted_in_time_never_is_and_holds_up_nobody(crowd):
    here = crowd(Capacity(cpus=2, memory_mb=1e6))
    here.come("a", cpus=1)
    with pytest.raises(Late), here.admission.admit("task", Limits(cpus=1), alone=True, patience=0.01):
        here.started.append("late")
    here.come("b", cpus=1)
    assert here.started == ["a", "b"]


def test_each_gpu_goes_to_one_experiment(crowd):
    here = crowd(Capacity(cpus=8, memory_mb=1e6, gpus=(3, 5)))
    here.come("a", gpus=1)
    here.come("b", gpus=1)
    here.come("c", gpus=1)
    assert sorted(gpus for _, gpus in here.started) == [(3,), (5,)]
    here.go("a")
    assert len(here.started) == 3


def test_an_experiment_that_waits_for_a_card_does_not_stop_those_that_need_none(crowd):
    here = crowd(Capacity(cpus=2, memory_mb=1e6, gpus=(0,)))
    here.come("on the card", gpus=1, cpus=1)
    here.come("waits", gpus=1, cpus=2, seconds=1000)
    here.come("waits too", gpus=1, cpus=1, seconds=1)
    here.come("a", cpus=1)
    assert here.started[1:] == ["a"]
    here.go("a")
    here.come("b", cpus=1)
    here.come("c", cpus=1)
    assert here.started[2:] == ["b"], "there are cores for one of them"
    here.go("on the card")
    assert here.started[3:] == [], "there is a card now, and nobody passes who waits for cores"
    here.go("b")
    assert here.started[3:] == [("waits", (0,))]


def test_a_card_that_is_named_twice_serves_two_at_once_but_no_experiment_twice(crowd):
    capacity = Capacity(cpus=8, memory_mb=1e6, gpus=(0, 0, 1))
    here = crowd(capacity)
    for name in "abc":
        here.come(name, gpus=1)
    assert [gpus for _, gpus in here.started] == [(0,), (1,), (0,)], "none is shared while another is free"
    here.come("both", gpus=2)
    here.go("a")
    here.go("b")
    here.go("c")
    assert [sorted(gpus) for _, gpus in here.started[3:]] == [[0, 1]]
    assert capacity.sets_of_gpus(1) == [(0,), (1,)] and capacity.sets_of_gpus(2) == [(0, 1)]
    assert [capacity.beside(Limits(gpus=1), one) for one in ((0,), (1,), (0, 1))] == [2, 1, 1]
    with pytest.raises(AdmissionError, match=r"share 2: .*sandbox\.gpus"), here.admission.admit("task", Limits(gpus=3)):
        pass


def test_a_card_that_is_lost_and_comes_back_stays_with_who_has_it(crowd):
    here = crowd(Capacity(cpus=8, memory_mb=1e6, gpus=(0, 1)))
    here.come("a", gpus=1)
    ((_, (taken,)),) = here.started
    here.admission.resize(Capacity(cpus=8, memory_mb=1e6, gpus=(1 - taken,)))
    here.admission.resize(Capacity(cpus=8, memory_mb=1e6, gpus=(0, 1)))
    here.come("b", gpus=1)
    here.come("both", gpus=2)
    assert [gpus for _, gpus in here.started] == [(taken,), (1 - taken,)]
    here.go("a")
    here.go("b")
    assert sorted(here.started[-1][1]) == [0, 1]


def test_cards_that_come_and_go_are_each_given_once(crowd):
    here = crowd(Capacity(cpus=8, memory_mb=1e6, gpus=(1, 2, 3)))
    here.come("a", gpus=1)
    ((_, (taken,)),) = here.started
    kept, gone = (card for card in (1, 2, 3) if card != taken)
    here.admission.resize(Capacity(cpus=8, memory_mb=1e6, gpus=(taken, kept, 7)))
    here.come("b", gpus=2)
    assert sorted(here.started[-1][1]) == [kept, 7] and gone not in here.started[-1][1]
    here.admission.resize(Capacity(cpus=8, memory_mb=1e6, gpus=(kept, 7)))
    here.go("b")
    here.go("a")  # what was given back last is given away first
    here.come("c", gpus=2)
    assert sorted(here.started[-1][1]) == [kept, 7], f"{taken} was taken away meanwhile"


@pytest.mark.parametrize("need", [{"cpus": 3}, {"memory_mb": 2001}, {"gpus": 1}])
def test_what_never_fits_is_refused_by_name(need):
    admission = Admission(Capacity(cpus=2, memory_mb=2000))
    with pytest.raises(AdmissionError, match=next(iter(need))), admission.admit("task", Limits(**need)):
        pass
    with admission.admit("task", Limits(cpus=2)):
        assert admission.running == 1


def test_a_smaller_share_refuses_those_in_line_that_no_longer_fit(crowd):
    admission = Admission(Capacity(cpus=2, memory_mb=1e6))
    refused = []

    def wait_for_both() -> None:
        try:
            with admission.admit("task", Limits(cpus=2)):
                pass
        except AdmissionError as error:
            refused.append(error)

    with admission.admit("task", Limits(cpus=1)):
        thread = threading.Thread(target=wait_for_both)
        thread.start()
        while not admission._line:
            time.sleep(0.001)
        admission.resize(Capacity(cpus=1, memory_mb=1e6))
        thread.join(5)
    assert len(refused) == 1
    with admission.admit("task", Limits(cpus=1)):
        pass
