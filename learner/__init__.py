"""Who learns: `main.py` is the algorithm, `training.py` its verbs, `parts.py` what starts and ends with a run;
`evaluate.py`, `experts.py` and `report.py` are the other commands.

The rooms, each importing only those above it: algorithm; figures; config; model and stream; ranks and run; recipe;
evaluation; reporting.
"""
