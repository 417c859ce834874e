"""What one action does: tasks, actions, experiments and their grading.

In: a task, a state and the text of an action. Out: a `StepResult`. Free of torch, vllm and ray, and of rewards: what
an outcome is worth is `reward/`. `records.py` holds what flows between all rooms, and imports none.
"""
