"""On which Ray nodes processes run: those with a label (`ray start --labels=role=learner`), together, or beside others.

Learner ranks exchange gradients all the time: their places are reserved at once, as a placement group, on one node
where one is large enough and has the room, else on as few as may be. Engines to which weights travel by NCCL go to
those nodes as long as there is room. Hosts that give out a node's cards are one to a node. Invariant: what is reserved
is nobody else's, and Ray counts it once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

ROOM_SECONDS = 10.0
"""That one node has to show that it has the room for all; nodes that an autoscaler brings come later."""


def on_node(label: str) -> dict[str, Any]:
    """Options of a Ray actor that runs on nodes with the label `KEY=VALUE` only; on any where it is empty."""
    return {"label_selector": selector} if (selector := _selector(label)) else {}


def _selector(label: str) -> dict[str, str]:
    name, equals, value = label.partition("=")
    return {name: value} if equals else {}


class Anywhere:
    """Places that are not reserved: for one process, or where there is no Ray."""

    nodes: Sequence[str] = ()
    """Ids of the nodes, one for each process, in order; none as long as that is open."""

    def __init__(self, label: str = ""):
        self._label = label

    def options(self, number: int) -> dict[str, Any]:
        """Options of the Ray actor that is to run there."""
        return on_node(self._label)

    def close(self) -> None:
        """Give the places back."""


class Reserved(Anywhere):
    """Places of a placement group; Ray must be initialised."""

    _group: PlacementGroup

    def options(self, number: int) -> dict[str, Any]:
        return {"scheduling_strategy": PlacementGroupSchedulingStrategy(self._group, number)}

    def close(self) -> None:
        remove_placement_group(self._group)


class Apart(Reserved):
    """For several processes of one kind, no two on one node, wherever they have to start again."""

    def __init__(self, count: int, share: Mapping[str, float], label: str = ""):
        selectors = [selector] * count if (selector := _selector(label)) else None
        self._group = placement_group([dict(share)] * count, "STRICT_SPREAD", bundle_label_selector=selectors)


class Together(Reserved):
    """For several processes of one kind, near each other."""

    def __init__(self, count: int, cpus: float, gpus: float, label: str = ""):
        """cpus, gpus: of each; one of them must be positive."""
        share = {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}
        bundles, selector = [share] * count, _selector(label)
        selectors = [selector] * count if selector else None
        fits = any(holds(node, count, share, selector) for node in ray.nodes())
        self._group = placement_group(
            bundles, "STRICT_PACK" if fits else "PACK", bundle_label_selector=selectors
        )  # fmt: skip
        if not self._group.wait(ROOM_SECONDS) and fits:  # others have a part of that node
            remove_placement_group(self._group)
            self._group = placement_group(bundles, "PACK", bundle_label_selector=selectors)
            self._group.wait(ROOM_SECONDS)

    @property
    def nodes(self) -> Sequence[str]:  # type: ignore[override]
        where = placement_group_table(self._group)["bundles_to_node_id"]
        return [where[number] for number in sorted(where) if where[number]]


def holds(node: Mapping[str, Any], count: int, share: Mapping[str, float], selector: Mapping[str, str]) -> bool:
    """Whether a node, as `ray.nodes` tells of it, has so many shares when nothing else runs there."""
    labels = node.get("Labels") or {}
    fitting = node["Alive"] and all(labels.get(name) == value for name, value in selector.items())
    return fitting and all(node["Resources"].get(name, 0) >= count * amount for name, amount in share.items())


def beside(
    nodes: Iterable[Mapping[str, Any]],
    near: Sequence[str],
    theirs: Mapping[str, float],
    taken: Sequence[str],
    share: Mapping[str, float],
    label: str = "",
) -> str | None:
    """The id of a node near which others are that has room for one more process; None where there is none.

    nodes: as `ray.nodes` tells of them; near: nodes of the others, one for each, each of whom has `theirs`; taken:
    nodes of the processes that are there already, one for each, of `share` each. The node with the most others comes
    first.
    """
    selector, there, known = _selector(label), Counter(near), {node["NodeID"]: node for node in nodes}
    for name, others in there.most_common():
        used = {kind: others * theirs.get(kind, 0) + taken.count(name) * share[kind] for kind in share}
        node = known.get(name)
        if node and holds(node, 1, {kind: used[kind] + share[kind] for kind in share}, selector):
            return name
    return None


def next_to(node: str) -> dict[str, Any]:
    """Options of a Ray actor that runs on that node if it can, and elsewhere otherwise."""
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True, _spill_on_unavailable=True)}
