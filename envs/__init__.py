"""What one action does: tasks, actions, experiments and their grading.

In: a task, a state and the text of an action. Out: a `StepResult`. `environment.py` is the step: `actions.py` reads the
text, `changes.py` applies edits, `experiments.py` runs the script in a sandbox, `grading.py` has a process of its own
(`grader.py`) grade what it wrote. Free of torch, vllm and ray, and of rewards: what an outcome is worth is `reward/`.
`records.py` holds what flows between all rooms, and imports none.
"""
