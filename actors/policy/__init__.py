"""The policy as it is served: the vLLM engine, its prompts and its weights.

In: prompts as token ids, and buckets of weights. Out: sampled responses with log-probs and the weight version of each
token. `policy.py` is the engine as its actor sees it, `arguments.py` what it is built with, in how much memory,
`weights.py` the bytes that travel, `weights_engine.py` their end in vLLM's workers, where checksums are compared. Knows
nothing of experiments and rewards.
"""
