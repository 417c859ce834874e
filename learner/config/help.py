"""Prints every configuration key with its help, default, type and choices, grouped by section."""

from __future__ import annotations

import dataclasses
import itertools

from rich.console import Console
from rich.table import Table
from rich.text import Text

from learner.config.schema import CONFIGS, Config, fields, type_name

USAGE = """\
usage: python learner/main.py [--dry-run] [config=NAME|PATH] [key=value ...]

--dry-run shows the resolved configuration, sizes, placement and a whole prompt, and starts nothing.

A value comes from the last of: the default (below, in brackets), the config file, the command line.
"""


def show() -> None:
    console = Console(width=None if Console().is_terminal else 120)
    console.print(Text(USAGE))
    console.print(Text(f"config names: {', '.join(sorted(path.stem for path in CONFIGS.glob('*.yaml')))}\n"))
    about = {part.name: part.metadata["help"] for part in dataclasses.fields(Config)}
    table = Table.grid(padding=(0, 2))
    for section, entries in itertools.groupby(fields(), lambda entry: entry[0].partition(".")[0]):
        keys = list(entries)
        if [name for name, *_ in keys] != [section]:
            table.add_row(Text(section, "bold"), "", Text(about[section], "bold"))
        for name, item, kind in keys:
            help = Text.assemble(_help(item), (f" [{_default(item)}]", "green"))
            table.add_row(Text(f"  {name}", "cyan"), Text(type_name(kind)), help)
        table.add_row()
    console.print(table)


def _default(item: dataclasses.Field) -> str:
    value = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
    if isinstance(value, dict):
        return "none"
    if isinstance(value, list):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value) or '""'


def _help(item: dataclasses.Field) -> str:
    choices = ", ".join(item.metadata["choices"])
    other = ", or an import path package.module:Name" if item.metadata["socket"] else ""
    return item.metadata["help"] + (f" One of: {choices}{other}." if choices else "")
