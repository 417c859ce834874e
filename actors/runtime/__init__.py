"""Where actors live: in Ray or in this process, on which nodes, and what figures they export.

Knows nothing of policies, experts or learners.
"""
