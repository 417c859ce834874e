"""What the doctor examines: nodes, sandboxes, and a rehearsal of engine and learner.

In: a configuration. Out: one finding per check, with what to do about it.
"""
