"""The task formats: folders of ours, of MLAgentBench, competitions of MLE-bench, and sources from outside.

In: a task's name, folder or `source:name`. Out: a prepared `Task`, whose answers no experiment sees. `loader.py` reads
the one format of folders, and another format is a source that makes such folders: `sources.py` is their socket,
`mlebench.py`, `packages.py` and `harbor.py` are three. Knows nothing of sandboxes and actions; `package_graders.py` is
imported by graders.
"""
