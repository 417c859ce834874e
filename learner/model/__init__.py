"""The policy as it is trained: a Hugging Face model over packed rows, adapters of its layers, and the value head.

In: a packed row. Out: log-probs and entropies of its response tokens. Knows nothing of ranks, losses and rewards.
"""
