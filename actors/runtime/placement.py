"""On which Ray nodes an actor runs: nodes carry labels (`ray start --labels=role=learner`), and actors ask for one."""

from __future__ import annotations

from typing import Any


def on_node(label: str) -> dict[str, Any]:
    """Options of a Ray actor that runs on nodes with the label `KEY=VALUE` only; on any where it is empty."""
    if not label:
        return {}
    name, _, value = label.partition("=")
    return {"label_selector": {name: value}}
