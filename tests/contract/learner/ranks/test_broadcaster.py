"""Who is in the group of a broadcast, and what each is told; test_broadcast.py has the broadcast itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from actors.pool import Receiver


class Handle:
    """In the place of an actor's: notes its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *args: self.calls.append((name, *args)))


@pytest.fixture
def groups(monkeypatch) -> list[Any]:
    """In the place of vLLM's trainer engine: the groups that were made."""
    from learner.ranks import broadcast  # vLLM, which collecting the tests need not load

    made: list[Any] = []

    class Trainer:
        def __init__(self, info: Any, client: Any, source: Any):
            self.info, self.client, self.ended = info, client, False
            self.names = [meta.name for meta in source.metadata()]

        @classmethod
        def trainer_init(cls, info: Any, client: Any, source: Any) -> Any:
            made.append(cls(info, client, source))
            client.init_weight_transfer_engine({"rank_offset": 1, "master_port": info.master_port})
            return made[-1]

        def send_weights(self) -> None:
            assert not self.ended
            self.client.update_weights({"names": self.names})

        def shutdown(self) -> None:
            self.ended = True

    monkeypatch.setattr(broadcast, "NCCLTrainerWeightTransferEngine", Trainer)
    monkeypatch.setattr(broadcast.ray, "get", lambda calls, timeout: calls)
    return made


def test_workers_have_ranks_of_their_own_and_a_group_is_made_anew_only_for_other_actors(groups):
    from learner.ranks.broadcast import Broadcaster, Weights

    model = torch.nn.Sequential(torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
    broadcaster = Broadcaster(0, Weights(model.named_parameters(), lambda: iter(())))
    assert broadcaster.norms == {"0.weight"}
    receivers = [Receiver(f"actor-{number}", Handle(), workers) for number, workers in enumerate((2, 3, 1))]
    broadcaster.send(receivers, 4, {"0.weight": "a"}, 9.0)
    assert groups[0].info.world_size == 1 + 2 + 3 + 1
    assert [one.handle.calls[0][1]["rank_offset"] for one in receivers] == [1, 3, 6]
    broadcaster.send(receivers, 5, {}, 9.0)
    assert len(groups) == 1
    update = {"names": ["0.weight", "0.bias", "1.weight", "1.bias"]}
    for one in receivers:
        assert one.handle.calls[1:] == [
            ("receive_broadcast", 4, update, {"0.weight": "a"}), ("receive_broadcast", 5, update, {}),
        ]  # fmt: skip
    broadcaster.send(receivers[1:], 6, {}, 9.0)
    assert groups[0].ended and len(groups) == 2
    assert groups[1].info.world_size == 1 + 3 + 1
    assert len(receivers[0].handle.calls) == 3 and receivers[2].handle.calls[-1][1] == 6
