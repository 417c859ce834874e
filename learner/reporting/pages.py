"""The frame of every page: templates in which all but markup of ours is escaped, one style, and the only script that
may run.

Invariant: a page's content security policy allows no script but the one that it was given here, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from learner.figures.action_text import visible
from learner.figures.text import duration, number, percent

TEMPLATES = Path(__file__).parent / "templates"


def environment() -> jinja2.Environment:
    """The templates, in which whatever is no markup of ours is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,  # Markup is the page's own
    )
    made.filters |= {
        "number": number,
        "percent": percent,
        "signed": _signed,
        "gain": _gain,
        "money": _money,
        "duration": duration,
        "count": lambda n: f"{n:,.0f}".replace(",", "\u202f"),
    }
    return made


def parts(*scripts: str, may_load: str = "") -> dict[str, Any]:
    """What `page.html` needs: the style, the only script that may run, made of these files, and the hash that allows
    it; may_load: what else its content security policy allows, as that says it."""
    script = "\n".join((TEMPLATES / name).read_text() for name in scripts)
    return {
        "style": Markup((TEMPLATES / "report.css").read_text()),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "may_load": Markup(may_load),
    }


def _gain(share: float | None) -> str:
    return "–" if share is None else f"{share:+.1%}".replace("-", "\u2212")


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}".replace("-", "\u2212")


def _money(value: float | None) -> str:
    """Two digits behind the point, or two that count where it is less than one."""
    if value is None:
        return "–"
    if value >= 1 or value == 0:
        return f"{value:,.2f}".replace(",", "\u202f")
    return np.format_float_positional(value, precision=2, fractional=False, trim="-")
