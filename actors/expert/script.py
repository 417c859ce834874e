"""What the built-in expert reads in a script: its syntax tree, the statement that builds the model, and its data.

Invariants: pure, but that it looks at the size and first row of the training data; a script is never changed in place:
what an operator makes of it is a new text.
"""

from __future__ import annotations

import ast
import csv
import functools
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from actors.expert import estimators
from actors.expert.estimators import Data, Model
from envs import syntax
from envs.records import Task

CLASSIFICATION_METRIC = re.compile(r"accuracy|auc|log.?loss|f1|kappa|qwk|map@|precision|recall|brier|gini", re.I)


class Unreadable(ValueError):
    """A script that does not parse."""


@dataclass(frozen=True)
class Target:
    """The lines of a script that build its model."""

    top: int
    """First line, from 0: imports that only the model needs, if they stand right above the assignment."""
    start: int
    """Where the assignment begins."""
    end: int
    """Where it ends, exclusive."""
    indent: str
    variable: str
    model: Model


class Script:
    """One version of a task's script.

    Raises:
        Unreadable: it does not parse.
    """

    def __init__(self, text: str, task: Task):
        self.text, self.task = text, task
        self.lines = text.splitlines()
        try:
            self.tree = syntax.parsed(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise Unreadable(f"{task.script} does not parse: {error}") from error

    @cached_property
    def target(self) -> Target | None:
        """Where the script assigns the variable whose `fit` it calls; None if there is no such place, or several."""
        if not (fitted := re.search(r"^[ \t]*(\w+)\.fit\(", self.text, re.MULTILINE)):
            return None
        variable = fitted[1]
        assigned = [
            node
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == variable
        ]
        if len(assigned) != 1:
            return None
        start, end = assigned[0].lineno - 1, assigned[0].end_lineno
        top = start
        while top and self._only_used_in(self.lines[top - 1], top, end):
            top -= 1
        indent = re.match(r"\s*", self.lines[start])[0]
        return Target(top, start, end, indent, variable, self._model(assigned[0].value, top, start))

    @cached_property
    def data(self) -> Data:
        """What a model of this script must cope with."""
        several = any(
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith(".fit")
            and len(node.args) == 2
            and isinstance(node.args[1], ast.Subscript)
            and isinstance(node.args[1].slice, ast.Name | ast.List)  # a list of columns
            for node in ast.walk(self.tree)
        )
        many = training_rows(self.task.env_dir / self.train_file) > estimators.MANY_ROWS
        return Data(self._kind, "Vectorizer(" in self.text, several, many)

    @cached_property
    def calls_with_torch(self) -> list[tuple[str, ast.Call]]:
        """Each call and the last part of the name of what it calls, where the script uses PyTorch; elsewhere none."""
        nodes = list(ast.walk(self.tree))
        imported = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        imported += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        if not any(name.partition(".")[0] == "torch" for name in imported):
            return []
        calls = [node for node in nodes if isinstance(node, ast.Call)]
        return [(ast.unparse(call.func).rpartition(".")[2], call) for call in calls]

    @cached_property
    def _kind(self) -> str:
        if "predict_proba" in self.text:
            return estimators.PROBABILITY
        numbers = not CLASSIFICATION_METRIC.search(self.task.metric)
        return estimators.REGRESSION if numbers else estimators.CLASSIFICATION

    @cached_property
    def names_classes(self) -> bool:
        """Whether the targets of the training data are words."""
        header, row = first_rows(self.task.env_dir / self.train_file)
        target = dict(zip(header, row, strict=False)).get("target", "0")
        return not re.fullmatch(r"[-+.\deE]+", target)

    @cached_property
    def train_file(self) -> str:
        """The file that the script reads first."""
        found = re.search(r"read_csv\([\"']([\w./-]+)[\"']", self.text)
        return found[1] if found else ""

    def statement(self, pattern: str) -> ast.stmt | None:
        """The only simple statement of the script's top level whose source matches the pattern."""
        found = [
            node for node in self.tree.body if isinstance(node, ast.Assign | ast.Expr) and self._has(node, pattern)
        ]
        return found[0] if len(found) == 1 else None

    def _has(self, node: ast.stmt, pattern: str) -> bool:
        return bool(re.search(pattern, self.source(node)))

    def source(self, node: ast.stmt) -> str:
        return "\n".join(self.lines[node.lineno - 1 : node.end_lineno])

    def replaced(self, node: ast.stmt, new: str) -> str:
        """The script with other lines in the place of a statement."""
        return self._with(node.lineno - 1, node.end_lineno, new)

    def with_model(self, model: Model, keep_imports: bool = False) -> str:
        """The script with another model and the imports it needs.

        keep_imports: leave those of the old model, which makes the edit shorter.
        """
        target = self.target
        new = (*model.imports, f"{target.variable} = {model.expression}")
        lines = "\n".join(target.indent + line for line in new)
        return self._with(target.start if keep_imports else target.top, target.end, lines)

    def _with(self, start: int, end: int, new: str) -> str:
        return "".join(f"{line}\n" for line in (*self.lines[:start], *new.split("\n"), *self.lines[end:]))

    @cached_property
    def imported(self) -> frozenset[str]:
        """Names that the script imports, anywhere."""
        imports = [node for node in ast.walk(self.tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        return frozenset(alias.asname or alias.name for node in imports for alias in node.names)

    def _model(self, value: ast.expr, top: int, start: int) -> Model:
        """A model: its expression, and the imports that go where it goes."""
        return Model("the same model", tuple(line.strip() for line in self.lines[top:start]), ast.unparse(value))

    def _only_used_in(self, line: str, top: int, end: int) -> bool:
        """Whether `line` imports from scikit-learn names that occur in no line outside [top, end) but imports."""
        if not (found := re.match(r"\s*from sklearn[.\w]* import (\w+(?:, \w+)*)$", line)):
            return False
        rest = [other for i, other in enumerate(self.lines) if not top <= i < end and " import " not in other]
        return not any(re.search(rf"\b{name}\b", other) for name in found[1].split(", ") for other in rest)


@functools.lru_cache(maxsize=256)
def first_rows(file: Path) -> tuple[list[str], list[str]]:
    """Header and first row of a CSV file; empty where it cannot be read."""
    try:
        with file.open(newline="") as opened:
            rows = csv.reader(opened)
            return next(rows, []), next(rows, [])
    except (OSError, ValueError, csv.Error):
        return [], []


@functools.lru_cache(maxsize=256)
def training_rows(file: Path) -> int:
    """Lines of a file; 0 where it cannot be read."""
    try:
        with file.open("rb") as opened:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: opened.read(1 << 20), b""))
    except OSError:
        return 0
