"""Transitions for tests of what is learned from them: only what the learner reads is given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.records import Outcome, Transition


def transition(
    name: str,
    prompt: Sequence[int],
    response: Sequence[int],
    reward: float = 0.0,
    behaviour: Sequence[float] = (),
    spans: Sequence[tuple[int, int, int]] = (),
    outcome: Outcome = Outcome.EDITED,
) -> Transition:
    """name: its id, which begins with that of its group and a dot; behaviour: zeros where it does not matter."""
    return Transition(
        id=name, group_id=name.partition(".")[0], state_id="s", task_id="t", prompt_ids=np.array(prompt, np.int32),
        response_ids=np.array(response, np.int32),
        behaviour_logprobs=np.array(behaviour if len(behaviour) else np.zeros(len(response)), np.float32),
        version_spans=tuple(spans), outcome=outcome, reward=reward,
    )  # fmt: skip
