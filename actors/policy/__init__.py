"""The policy as it is served: the vLLM engine, its prompts and its weights.

In: prompts as token ids, and buckets of weights. Out: sampled responses with log-probs and the weight version of each
token. Knows nothing of experiments and rewards.
"""
