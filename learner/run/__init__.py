"""How a run is kept: its folder, journal, status, progress view, trackers, and what is examined before it starts.

In: the figures of each step. Out: `runs/<name>/`. Decides nothing about training.
"""
