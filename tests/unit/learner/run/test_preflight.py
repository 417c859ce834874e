"""What the processes of a configuration ask Ray for."""

from __future__ import annotations

from collections import Counter

from learner.config.load import load
from learner.run.preflight import shares

EXPLORES = ["experts.kind=llm", "experts.model=mine"]


def test_a_model_of_ones_own_that_explores_is_served_beside_the_policy():
    def actors(*settings: str) -> int:
        return Counter(share.who for share in shares(load(["actors.count=2", *settings])))["actors"]

    assert actors() == 2 and actors(*EXPLORES) == 4
    assert actors(*EXPLORES, "experts.endpoint=http://x/v1") == actors(*EXPLORES, "experts.path=runs/first") == 2
