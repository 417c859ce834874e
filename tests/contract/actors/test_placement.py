"""Processes find their places on a Ray cluster of several small nodes."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import ray
from ray.cluster_utils import Cluster

from actors.runtime import placement
from actors.runtime.placement import Together, on_node

pytestmark = pytest.mark.long


class Process:
    def where(self) -> tuple[str, list[int]]:
        about = ray.get_runtime_context()
        return about.get_node_id(), [int(card) for card in about.get_accelerator_ids()["GPU"]]


@pytest.fixture(scope="module")
def nodes() -> Iterator[SimpleNamespace]:
    """Ids of nodes: two cards; four cards; two cards with a label."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    small = cluster.add_node(num_cpus=4, num_gpus=2)
    large = cluster.add_node(num_cpus=8, num_gpus=4)
    labelled = cluster.add_node(num_cpus=4, num_gpus=2, labels={"role": "learner"})
    ray.init(address=cluster.address, log_to_driver=False)
    yield SimpleNamespace(small=small.node_id, large=large.node_id, labelled=labelled.node_id)
    ray.shutdown()
    cluster.shutdown()


def started(options: list[dict], cpus: float = 1, gpus: float = 1) -> tuple[list, list]:
    """(handles, where each runs and with which cards)."""
    kind = ray.remote(Process)
    handles = [kind.options(num_cpus=cpus, num_gpus=gpus, **of).remote() for of in options]
    return handles, ray.get([handle.where.remote() for handle in handles], timeout=60)


def test_ranks_are_on_one_node_where_they_fit_and_on_few_otherwise(nodes: SimpleNamespace) -> None:
    places = Together(4, 1, 1)
    handles, where = started([places.options(rank) for rank in range(4)])
    assert where == [(nodes.large, where[rank][1]) for rank in range(4)] and list(places.nodes) == [nodes.large] * 4
    assert sorted(card for _, cards in where for card in cards) == [0, 1, 2, 3], "a card has one rank"
    for handle in handles:
        ray.kill(handle)
    places.close()
    spread = Together(6, 1, 1)
    assert nodes.large in spread.nodes and len(set(spread.nodes)) == 2
    spread.close()
    labelled = Together(2, 1, 1, "role=learner")
    assert list(labelled.nodes) == [nodes.labelled] * 2
    labelled.close()


def test_where_others_have_a_part_of_that_node_ranks_do_not_wait_for_it(
    nodes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "ROOM_SECONDS", 2.0)
    [other], _ = started([{"label_selector": {"ray.io/node-id": nodes.large}}])
    places = Together(4, 1, 1)
    assert len(places.nodes) == 4 and len(set(places.nodes)) == 2
    places.close()
    ray.kill(other)


def test_engines_are_beside_the_ranks_as_long_as_there_is_room(nodes: SimpleNamespace) -> None:
    places = Together(2, 1, 1, "role=learner")
    share, taken, options = {"CPU": 1.0, "GPU": 1.0}, [], []
    ranks = Together(3, 1, 1)
    for _ in range(2):
        found = placement.beside(ray.nodes(), ranks.nodes, share, taken, share)
        taken.append(found or "")
        options.append(placement.next_to(found) if found else on_node(""))
    handles, where = started(options)
    [there], [(place, _)] = started([{**on_node("role=learner"), **placement.next_to(nodes.labelled)}], gpus=0)
    assert place == nodes.labelled
    ray.kill(there)
    assert taken == [nodes.large, ""] and where[0][0] == nodes.large and where[1][0] == nodes.small
    full = started([placement.next_to(nodes.labelled)])[0]  # has no room: it goes elsewhere
    for handle in [*handles, *full]:
        ray.kill(handle)
    places.close()
    ranks.close()
