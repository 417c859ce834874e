"""Engine and learner are judged by tokens that both gave a probability under the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.config.schema import RlConfig
from learner.ranks import logprob_gap
from learner.ranks.group import LearnerError
from tests.unit.fake_run import report_of


def test_what_was_learned_since_a_token_was_sampled_is_no_disagreement(monkeypatch):
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda _: None)
    said: list[str] = []
    stale = report_of({"logprob_gap_mean": 9.0, "logprob_gap_on_current": False})
    logprob_gap.check(3, stale, RlConfig(), Path("model"), said.append)
    logprob_gap.check(3, report_of(None), RlConfig(), Path("model"), said.append)
    assert not said
    logprob_gap.check(3, report_of({"logprob_gap_mean": 0.1}), RlConfig(), Path("model"), said.append)
    assert ["> rl.gap_warn" in one for one in said] == [True]
    with pytest.raises(LearnerError, match="> rl.gap_stop=0.5"):
        logprob_gap.check(3, report_of({"logprob_gap_mean": 9.0}), RlConfig(), Path("model"), said.append)
