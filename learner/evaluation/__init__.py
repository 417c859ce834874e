"""How good a policy is: attempts of each stage of a run, and trials of any agents side by side.

In: attempts. Out: `evaluation.json` and tables, with intervals. Trains nothing.
"""
