"""What a person sees after a run: the report, the comparison of runs, plots, cost.

In: a run's folder. Out: one HTML file that needs nothing else. Reads only; imports neither ray nor torch.
"""
