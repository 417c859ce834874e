"""Engine and learner are judged by tokens that both gave a probability under the same weights."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from actors.policy.model import BUILTIN, resolve
from learner.algorithm.step_report import TokenGap
from learner.config.schema import RlConfig
from learner.ranks import logprob_gap
from learner.ranks.group import LearnerError
from tests.unit.fake_run import report_of


def test_what_was_learned_since_a_token_was_sampled_is_no_disagreement():
    said: list[str] = []
    stale = report_of({"logprob_gap_mean": 9.0, "logprob_gap_on_current": False})
    logprob_gap.check(3, stale, RlConfig(), Path("model"), said.append)
    logprob_gap.check(3, report_of(None), RlConfig(), Path("model"), said.append)
    assert not said
    logprob_gap.check(3, report_of({"logprob_gap_mean": 0.1}), RlConfig(), Path("model"), said.append)
    assert ["> rl.gap_warn" in one for one in said] == [True]
    with pytest.raises(LearnerError, match="> rl.gap_stop=0.5"):
        logprob_gap.check(3, report_of({"logprob_gap_mean": 9.0}), RlConfig(), Path("model"), said.append)


@pytest.mark.parametrize(("model", "piece"), [(resolve(BUILTIN), "'<|im_end|>'"), (Path("without"), "2")])
def test_the_worst_tokens_are_named_as_far_as_the_model_can_be_read(model, piece):
    far = dataclasses.replace(
        report_of({"logprob_gap_mean": 9.0}),
        worst_tokens=(TokenGap("move-1", 7, 2, engine=-9.0, learner=-0.5, gap=8.5),),
    )
    with pytest.raises(LearnerError, match=rf"move-1 token 7 {re.escape(piece)}: engine -9.000, learner -0.500"):
        logprob_gap.check(3, far, RlConfig(), model, print)
