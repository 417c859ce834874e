"""What the learner trains on next: the state pool, the stream between actors and learner, and how many actors.

In: finished groups. Out: batches, each group exactly once, within the staleness bound. Knows nothing of losses and
weights.
"""
