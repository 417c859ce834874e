"""The learner's processes: DeepSpeed on every rank, the driver's handle, publishing and checkpoints.

In: batches. Out: new weights with the figures of each step. `handle.py` is what the driver calls, `rank.py` each
process, `trainer.py` what it does, `recovery.py` brings back what died, `publisher.py` gives weights to actors,
`turns.py` and `away.py` the card to one side after the other. Knows nothing of the stream, of tasks and of experiments.
"""
