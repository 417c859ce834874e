"""What `actors/solve.py` is made of: an agent that works on one task or on a user's own script.

In: a task and an agent. Out: the best script and what was tried. Only the command imports it. A user's file is read and
put back by `source` (a notebook by `notebook`), becomes a task in `user_script`, and its score is found by `score`.
"""
