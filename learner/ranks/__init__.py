"""The learner's processes: DeepSpeed on every rank, the driver's handle, publishing and checkpoints.

In: batches. Out: new weights with the figures of each step. Knows nothing of the stream, of tasks and of experiments.
"""
