"""Beside which ranks an engine goes, by arithmetic alone (tests/contract/actors has the cluster)."""

from __future__ import annotations

from actors.runtime.placement import beside, holds

CARD = {"CPU": 2.0, "GPU": 1.0}


def node(name: str, cpus: float, cards: float, alive: bool = True, **labels: str) -> dict:
    return {"NodeID": name, "Alive": alive, "Resources": {"CPU": cpus, "GPU": cards}, "Labels": labels}


def test_a_node_holds_so_many_shares_if_it_lives_and_has_the_label():
    assert holds(node("a", 4, 2), 2, CARD, {}) and not holds(node("a", 4, 2), 3, CARD, {})
    assert not holds(node("a", 3, 2), 2, CARD, {}) and not holds(node("a", 4, 2, alive=False), 1, CARD, {})
    assert holds(node("a", 4, 2, role="learner"), 2, CARD, {"role": "learner"})
    assert not holds(node("a", 4, 2, role="actors"), 1, CARD, {"role": "learner"})
    assert not holds({**node("a", 4, 2), "Resources": {"CPU": 4.0}}, 1, CARD, {})


def test_engines_go_to_the_nodes_of_most_ranks_until_these_are_full():
    nodes = [node("few", 8, 4), node("most", 8, 4), node("none", 8, 8)]
    near, taken = ["few", "most", "most"], []
    while found := beside(nodes, near, CARD, taken, CARD):
        taken.append(found)
    assert taken == ["most", "most", "few", "few", "few"]
    assert beside(nodes, near, CARD, taken[1:], CARD) == "most", "one that was lost leaves its place"
    assert beside(nodes, [], CARD, [], CARD) is None and beside(nodes[2:], near, CARD, [], CARD) is None


def test_shares_are_counted_by_kind_and_labels_hold():
    wide = {"CPU": 1.0, "GPU": 2.0}
    assert beside([node("a", 8, 4)], ["a"], CARD, ["a"], wide) is None
    assert beside([node("a", 8, 5)], ["a"], CARD, ["a"], wide) == "a"
    assert beside([node("a", 8, 5)], ["a"], CARD, [], wide, "role=actors") is None
    assert beside([node("a", 8, 5, role="actors")], ["a"], CARD, [], wide, "role=actors") == "a"
