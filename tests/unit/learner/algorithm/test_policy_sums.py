"""Figures of rows, of ranks and of any split of a batch combine to those of the whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from learner.algorithm.policy_sums import WORST, PolicySums, combine

NUMBER = st.integers(0, 40).map(lambda eighths: eighths / 8)
MAXIMA = ("importance_max", "gap_max", "gap_current_max", "grad_norm")
ADDED = ("loss", "value_loss", "ratio", "clipped", "entropy", "kl", "gap", "gap_current", "rejected", "tokens")
sums = st.builds(
    PolicySums,
    **dict.fromkeys((*MAXIMA, *ADDED[:-1]), NUMBER),
    current=st.integers(0, 2),
    tokens=st.integers(0, 9),
    worst=st.lists(st.tuples(NUMBER, st.integers(0, 99), NUMBER), max_size=6).map(tuple),
    values=st.lists(st.tuples(st.integers(0, 9), NUMBER), max_size=2).map(tuple),
)


@given(st.lists(sums, min_size=1, max_size=6), st.integers(0, 6))
def test_any_split_combines_to_the_whole_and_a_filler_adds_nothing(parts, place):
    whole = combine(parts)
    assert combine([PolicySums(), *parts]) == whole
    assert combine([combine([PolicySums(), *some]) for some in (parts[:place], parts[place:])]) == whole
    assert all(getattr(whole, name) == max(getattr(part, name) for part in parts) for name in MAXIMA)
    assert all(getattr(whole, name) == sum(getattr(part, name) for part in parts) for name in ADDED)
    of_current = [part for part in parts if part.current] or parts
    assert whole.worst == tuple(sorted((gap for part in of_current for gap in part.worst), reverse=True)[:WORST])
    assert sorted(whole.values) == sorted(value for part in parts for value in part.values)
