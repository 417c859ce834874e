"""Who has the card: never both, and nobody is asked to give up what it has not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from learner.ranks.turns import Turns


def sides(colocate: bool) -> tuple[Turns, list[str]]:
    told: list[str] = []

    def side(name: str) -> SimpleNamespace:
        return SimpleNamespace(rest=lambda: told.append(f"{name} rests"), wake=lambda: told.append(f"{name} wakes"))

    learner = side("learner")
    learner.cfg = SimpleNamespace(actors=SimpleNamespace(colocate=colocate))
    return Turns(learner, side("actors")), told


def test_the_card_is_given_up_before_it_is_taken():
    turns, told = sides(colocate=True)
    for turn in (turns.learner, turns.actors, turns.actors, turns.learner, turns.learner, turns.actors):
        turn()
    assert told == [
        "learner rests", "actors wakes", "actors rests", "learner wakes", "learner rests", "actors wakes",
    ]  # fmt: skip


def test_a_side_that_does_not_take_its_turn_is_asked_again():
    turns, told = sides(colocate=True)

    def fails() -> None:
        raise RuntimeError

    wake, turns._actors.wake = turns._actors.wake, fails
    with pytest.raises(RuntimeError):
        turns.actors()
    turns._actors.wake = wake
    turns.actors()
    assert told[-1] == "actors wakes"


def test_where_each_has_its_own_memory_nobody_rests():
    turns, told = sides(colocate=False)
    turns.actors()
    turns.learner()
    assert told == [] and turns.figures() == {}


def test_the_seconds_that_turns_took_are_told_once(monkeypatch):
    turns, told = sides(colocate=True)
    monkeypatch.setattr("learner.ranks.turns.time", SimpleNamespace(monotonic=lambda: 2.0 * len(told)))
    turns.actors()
    turns.learner()
    assert turns.figures() == {"turn_seconds": 8.0}
    assert turns.figures() == {"turn_seconds": 0.0}
