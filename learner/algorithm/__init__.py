"""The mathematics of a learner step: advantages, batches, losses, schedules.

In: groups of transitions. Out: packed rows, and losses with gradients. Pure functions: no Ray, no DeepSpeed, no files.
`algorithms.py` is the socket for objectives from outside.
"""
