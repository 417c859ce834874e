"""Tables as wide as there is room for.

Invariant: the widest of several forms of a table that fits its console is shown, and else the last, which wraps.
"""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table

UNBOUNDED = 10_000


class Fitting:
    """A renderable in several forms."""

    def __init__(self, *forms: Table):
        """forms: the widest first."""
        self._forms = forms

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        free = options.update(width=UNBOUNDED, max_width=UNBOUNDED)
        fitting = (form for form in self._forms if Measurement.get(console, free, form).maximum <= options.max_width)
        yield next(fitting, self._forms[-1])
