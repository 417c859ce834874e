"""The task formats: folders of ours, of MLAgentBench, competitions of MLE-bench, and sources from outside.

In: a task's name, folder or `source:name`. Out: a prepared `Task`, whose answers no experiment sees. Knows nothing of
sandboxes, actions or grading.
"""
