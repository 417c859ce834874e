"""What a run of the mutants showed: a table, the survivors as diffs, and what is wrong."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from tests.mutants import mutations
from tests.mutants.accepted import Accepted
from tests.mutants.kept import Files, Kept
from tests.mutants.mutations import Mutant
from tests.mutants.targets import GOAL, Target

LEGEND = f"""score = (killed + timeout) / (mutants − accepted); accepted: survivors that accepted.yaml has a reason for.
{mutations.LEFT_OUT}"""
OUTCOMES = ("killed", "timeout", "survived", "accepted")


def summary(
    console: Console,
    tried: Iterable[tuple[Target, Sequence[Mutant]]],
    kept: Kept,
    entries: Sequence[Accepted],
    broken: Sequence[str],
) -> int:
    """Prints all of it; returns the exit code."""
    table = Table("module", *(["mutants", *OUTCOMES, "score"]), row_styles=["", "dim"])
    for column in table.columns[1:]:
        column.justify = "right"
    total, survivors, stale = collections.Counter[str](), [], []
    for target, mutants in tried:
        counts = collections.Counter[str]()
        noticed: list[Mutant] = []
        files = Files(target)
        for mutant in mutants:
            if not (result := kept.valid(mutant, files)):
                continue
            expected = result.outcome == "survived" and any(entry.is_of(mutant) for entry in entries)
            counts["accepted" if expected else result.outcome] += 1
            if result.outcome != "survived":
                noticed.append(mutant)
            elif not expected:
                survivors.append(mutant)
        stale += [entry for entry in entries if entry.path == target.path and _is_stale(entry, mutants, noticed)]
        total.update(counts)
        table.add_row(target.path, *_cells(counts))
    table.add_section()
    table.add_row("all", *_cells(total), style="bold")
    for mutant in survivors:
        console.print(f"\n[bold]{mutant.path}[/]:{mutant.lines.start} {mutant.where}", highlight=False)
        console.print(Syntax(mutant.change, "diff", background_color="default"))
    console.print(table)
    console.print(LEGEND, style="dim", highlight=False)
    for entry in stale:
        console.print(f"[red]stale in accepted.yaml[/]: {entry.path}::{entry.where}\n{entry.change}", highlight=False)
    for message in broken:
        console.print(f"[red]{message}[/]", highlight=False)
    if (reached := score(total)) < GOAL:
        console.print(f"[red]{reached:.1%} is below the goal, {GOAL:.0%}[/]")
    return int(bool(stale or broken or reached < GOAL))


def score(counts: collections.Counter[str]) -> float:
    """Share of the mutants that tests noticed, without the accepted ones."""
    noticed = counts["killed"] + counts["timeout"]
    return noticed / ((noticed + counts["survived"]) or 1)


def _cells(counts: collections.Counter[str]) -> list[str]:
    return [f"{counts.total()}", *(f"{counts[outcome]}" for outcome in OUTCOMES), f"{score(counts):.1%}"]


def _is_stale(entry: Accepted, mutants: Sequence[Mutant], noticed: Sequence[Mutant]) -> bool:
    of_it = [mutant for mutant in mutants if entry.is_of(mutant)]
    return not of_it or any(mutant in noticed for mutant in of_it)
