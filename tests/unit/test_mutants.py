"""What `make mutants` changes, and that the code of its accepted survivors is still there."""

from __future__ import annotations

import ast

from tests.mutants.accepted import accepted
from tests.mutants.mutations import mutants
from tests.mutants.targets import ROOT, TARGETS

SOURCE = '''
"""Some text. """
import logging

log = logging.getLogger(__name__)
LIMIT = 3


class Account:
    def __repr__(self) -> str:
        return "account" + "s"

    def take(self, amount: int = 1, *, force: bool = False) -> int:
        """Takes 5."""
        if amount > self.left and not force:
            raise ValueError(f"{amount + 1} is too much: at most {self.left}")
        log.warning("%s left", 1)
        self.note(amount, why="taken")
        return self.left - amount
'''


def test_each_mutant_is_another_program_that_differs_where_it_says():
    found = mutants("account.py", SOURCE)
    programs = {ast.dump(ast.parse(mutant.source)) for mutant in found}
    assert len(programs) == len(found) == len({mutant.id for mutant in found})
    assert ast.dump(ast.parse(SOURCE)) not in programs
    for mutant in found:
        removed = [line[2:] for line in mutant.change.splitlines() if line.startswith("-")]
        original = [line.strip() for line in SOURCE.splitlines()[mutant.lines.start - 1 : mutant.lines.stop - 1]]
        assert set(removed) <= set(original)


def test_meaning_is_changed_and_texts_for_people_are_not():
    changes = {(mutant.where, mutant.change.partition("\n+ ")[2]) for mutant in mutants("account.py", SOURCE)}
    assert {
        ("", "LIMIT = 4"),
        ("Account.take", "if amount >= self.left and not force:"),
        ("Account.take", "if amount > self.left or not force:"),
        ("Account.take", "pass"),
        ("Account.take", "self.note(amount, )"),
        ("Account.take", 'self.note(amount, why="XXtakenXX")'),
        ("Account.take", "return self.left + amount"),
    } <= changes
    text = "\n".join(change for _, change in changes)
    assert "raise" not in text and "log." not in text and "account" not in text and "import" not in text


def test_what_runs_at_import_meets_every_test():
    by_change = {mutant.change: mutant.at_import for mutant in mutants("account.py", SOURCE)}
    assert by_change["- LIMIT = 3\n+ LIMIT = 4"]
    assert not by_change["- return self.left - amount\n+ return self.left + amount"]


def test_every_target_has_tests_and_every_accepted_survivor_a_reason_and_the_lines_that_it_changes():
    """That each is still a mutant, which takes long to find out, `make mutants` sees to."""
    assert all(target.tests and (ROOT / target.path).exists() for target in TARGETS)
    entries = accepted()
    assert {entry.path for entry in entries} <= {target.path for target in TARGETS}
    lines = {entry.path: {line.strip() for line in (ROOT / entry.path).read_text().splitlines()} for entry in entries}
    for entry in entries:
        removed = {line[2:] for line in entry.change.splitlines() if line.startswith("-")}
        assert removed <= lines[entry.path], f"stale: {entry}"
        assert len(entry.because.split()) >= 4, f"no reason: {entry}"
