"""Exploration-enriched fine-tuning: the expert's trajectories, what of them is imitated, and the state pool they leave.

In: held-in tasks and actors. Out: examples to imitate, and states to start from.
"""
