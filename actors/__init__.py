"""Who acts: Ray actors that serve the policy and run its experiments.

In: states to act from (the stream's tickets) and weights. Out: groups of transitions. `actor.py` is the step,
`pool.py` the driver's handle on all actors, `solve.py` the command that puts an agent to work. Never imports the
learner.
"""
