"""Plots take most of the time of a page, and most tests look at its words."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.figure import Figure

from learner.reporting import charts


@pytest.fixture
def drawn() -> None:
    """Tests with this fixture see plots as they are; those of others are made and never rendered."""


@pytest.fixture(autouse=True)
def not_rendered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(name: str, draw: Any, width: float, height: float) -> str:
        draw(Figure().add_subplot())
        return f'<svg data-name="{name}"></svg>'

    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(charts, "_svg", made)
