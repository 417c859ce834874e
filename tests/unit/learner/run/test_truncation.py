"""When somebody is told that responses are cut."""

from __future__ import annotations

import pytest

from learner.config.load import load
from learner.run.truncation import warning


@pytest.mark.parametrize(
    ("treated", "said"), [("mask", "left out of training"), ("failure", "rewarded as failed"), ("soft", "punished")]
)
def test_many_truncated_responses_are_told_with_what_becomes_of_them(treated: str, said: str) -> None:
    cfg = load(["model.response=64", f"reward.truncated={treated}"])
    told = warning(3, 0.5, cfg)
    assert "step 3: 50% of the responses" in told and "model.response=64" in told and said in told
    assert warning(3, 0.2, cfg) is None
