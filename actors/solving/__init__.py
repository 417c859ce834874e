"""What `actors/solve.py` is made of: an agent that works on one task or on a user's own script.

In: a task and an agent. Out: the best script and what was tried. Only the command imports it.
"""
