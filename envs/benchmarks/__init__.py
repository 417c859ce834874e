"""The task formats: folders of ours, of MLAgentBench, and competitions of MLE-bench.

In: a task's name, folder or `prefix:name`. Out: a prepared `Task`, whose answers no experiment sees. Knows nothing of
sandboxes, actions or grading.
"""
