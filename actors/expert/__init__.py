"""The experts whose trajectories are the warm start: built in, or a language model that is asked.

In: a state and ideas. Out: an action, written as the policy would write it. Runs no experiment.
"""
