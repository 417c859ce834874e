"""How each version of the weights travels: in full or as a difference, checked or not, by the card or the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from learner.config.defaults import defaults
from learner.config.schema import Config
from learner.ranks import handle
from learner.ranks.handle import Learner
from learner.ranks.rank import Published


class Ranks:
    """In the place of the processes: keeps what they were asked."""

    def __init__(self, cfg: Config, model_dir: Path, places: Any) -> None:
        self.cfg, self.asked = cfg, []

    def start(self) -> None:
        pass

    def everyone(self, method: str, *args: Any) -> list[Published]:
        self.asked.append((method, *args))
        return [Published([], 0, 0)]


@pytest.mark.parametrize(
    ("transfer", "full_every", "check_every", "full", "checked"),
    [
        ("object_store", 1, 1, {1, 2, 3, 4, 5, 6}, {1, 2, 3, 4, 5, 6}),
        ("object_store", 3, 2, {3, 6}, {2, 4, 6}),
        ("ipc", 1, 0, {1, 2, 3, 4, 5, 6}, set()),
        ("ipc", 3, 6, {3, 6}, {6}),
    ],
)
def test_each_version_travels_as_the_configuration_says(transfer, full_every, check_every, full, checked, monkeypatch):
    cfg = defaults()
    cfg.learner.transfer, cfg.learner.full_every, cfg.learner.check_every = transfer, full_every, check_every
    monkeypatch.setattr(handle, "RankGroup", Ranks)
    learner = Learner(cfg, Path("model"))
    for version in range(1, 7):
        learner.publish(64, version)
    by_card = transfer == "ipc"
    assert learner._ranks.asked == [("publish", 64, v, v in full, v in checked, by_card) for v in range(1, 7)]
    learner.publish(64, 5, full=True)
    assert learner._ranks.asked[-1] == ("publish", 64, 5, True, 5 in checked, False), "a late actor fetches it"
