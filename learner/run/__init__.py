"""How a run is kept: its folder, journal, status, progress view, trackers, and what is examined before it starts.

In: the figures of each step. Out: `runs/<name>/`: `metrics.jsonl` by `journal.py`, `status.json` by `status.py`, the
files of `transitions/` by `transitions.py`, checkpoints by `folder.py`. Decides nothing about training.
"""
