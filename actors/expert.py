"""The built-in expert: proposes randomly chosen improvements of a script, written as the policy would write them.

It reads the script's syntax tree, finds the statement that builds the model (the variable whose `fit` is called), and
replaces it by an idea of `actors.ideas`. It needs no teacher model. Invariants: pure, and the same for the same random
generator; every edit brings its imports along; in a state whose last run failed it repairs or takes back, never
builds on the failure.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from actors import ideas
from actors.ideas import Idea
from envs.records import State, Task

CLASSIFICATION_METRIC = re.compile(r"accuracy|auc|log.?loss|f1|kappa|qwk|map@|precision|recall|brier|gini", re.I)
MAX_CHARACTERS = 380
"""Of an action: about 120 tokens at most, so that it fits a short response."""
TRIES = 20
UNDO_RATE = 0.25
"""How often an edit that broke the script or made the score worse is taken back."""


@dataclass(frozen=True)
class Target:
    """The lines of a script that build its model."""

    text: str
    """Whole lines: imports that only the model needs, if they stand right above it, and the assignment."""
    assignment: str
    indent: str
    variable: str
    model: Idea | None
    """What is assigned, with the imports it needs; None where the script does not parse."""


def propose(task: Task, state: State, files: Mapping[str, str], rng: random.Random, mistakes: float) -> str:
    """Text of the expert's next action.

    mistakes: probability of an edit that is broken on purpose, so that error states come about.
    """
    target = find_model(files[task.script])
    failed = state.score is None and bool(state.history)
    if target is None or ((failed or _worse(task, state)) and rng.random() < UNDO_RATE):
        return _without_edit(state)
    kind = kind_of(task, files[task.script])
    for _ in range(TRIES):
        idea = _repair(target, kind, rng) if failed else _idea(target, kind, rng)
        action = write(target, idea, whole=failed)
        if len(action) <= MAX_CHARACTERS and not _same(idea, target.model):
            return broken(action, idea, rng) if rng.random() < mistakes else action
    return _without_edit(state)


def kind_of(task: Task, script: str) -> str:
    """`regression`, `classification`, or `probability` where the script asks for probabilities."""
    if "predict_proba" in script:
        return ideas.PROBABILITY
    return ideas.CLASSIFICATION if CLASSIFICATION_METRIC.search(task.metric) else ideas.REGRESSION


def find_model(script: str) -> Target | None:
    """Where the script assigns the variable whose `fit` it calls; None if there is no such place, or more than one.

    A script that does not parse is searched by its lines.
    """
    if not (fitted := re.search(r"^[ \t]*(\w+)\.fit\(", script, re.MULTILINE)):
        return None
    variable, lines = fitted[1], script.splitlines()
    try:
        tree = ast.parse(script)
    except SyntaxError:
        spans = [(i, i + 1, None) for i, line in enumerate(lines) if re.match(rf"\s*{variable} = ", line)]
    else:
        spans = [
            (node.lineno - 1, node.end_lineno, _model(tree, node.value))
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == variable
        ]
    if len(spans) != 1:
        return None
    start, end, model = spans[0]
    top = start
    while top and _only_used_in(lines[top - 1], lines, top, end):
        top -= 1
    indent = re.match(r"\s*", lines[start])[0]
    return Target("\n".join(lines[top:end]), "\n".join(lines[start:end]), indent, variable, model)


def write(target: Target, idea: Idea, whole: bool) -> str:
    """The action that puts the idea in the place of the target.

    whole: replace imports that are no longer needed even where that makes the action too long.
    """
    new = "\n".join(target.indent + line for line in (*idea.imports, f"{target.variable} = {idea.expression}"))
    action = _edit(f"try {idea.thought}", target.text, new)
    short = _edit(f"try {idea.thought}", target.assignment, new)
    return action if whole or len(action) <= MAX_CHARACTERS else short


def broken(action: str, idea: Idea, rng: random.Random) -> str:
    """The same action with one of the mistakes that people make."""
    start, search, rest = action.partition("SEARCH\n")
    old, marker, new = rest.partition("=======\n")
    head = start + search + old
    name = re.match(r"\w+", idea.expression)[0]
    match rng.randrange(5):
        case 0:  # the search text is not in the file
            return start + search + old.replace("(", "(verbose=0, ", 1) + marker + new
        case 1:  # imported from a module that does not have it
            return head + marker + re.sub(r"from sklearn\.\w+ import", "from sklearn.models import", new, count=1)
        case 2:  # a parenthesis is missing
            return head + marker + new.replace(")\n>>>", "\n>>>", 1)
        case 3:  # no such setting
            return head + marker + new.replace(f"{name}(", f"{name}(strength=2, ", 1)
        case _:  # no such action
            return action.replace("Action: Edit", "Action: Change", 1)


def _idea(target: Target, kind: str, rng: random.Random) -> Idea:
    """Another model, or the present one changed."""
    present = target.model
    match rng.choices(["new", "step", "retune", "wrap", "average"], [12, 4, 3, 1, 2])[0]:
        case "step":
            return ideas.preprocessed(present, rng)
        case "retune" if retuned := ideas.retuned(present, rng):
            return retuned
        case "wrap":
            return ideas.wrapped(present, kind, rng)
        case "average":
            return ideas.averaged(present, kind, rng)
    return ideas.new_model(kind, rng, scaled=0.5)


def _repair(target: Target, kind: str, rng: random.Random) -> Idea:
    """The present model with an import it lacked, or another model."""
    if target.model:
        named = [node.id for node in ast.walk(ast.parse(target.model.expression)) if isinstance(node, ast.Name)]
        imported = {line.rpartition(" ")[2] for line in target.model.imports}
        missing = {name: ideas.known_import(name) for name in named if name not in imported}
        if missing and all(missing.values()):
            imports = (*target.model.imports, *dict.fromkeys(missing.values()))
            return Idea(f"the same with its import of {', '.join(missing)}", imports, target.model.expression)
    idea = ideas.new_model(kind, rng, scaled=0.3)
    return Idea(f"{idea.thought} since the script fails", idea.imports, idea.expression)


def _without_edit(state: State) -> str:
    if state.undo:
        return "Thought: the last edit did not help, take it back\nAction: Undo\n"
    return "Thought: read the script again\nAction: Inspect\n"


def _same(idea: Idea, model: Idea | None) -> bool:
    return model is not None and (idea.imports, idea.expression) == (model.imports, model.expression)


def _worse(task: Task, state: State) -> bool:
    before = state.undo[-1][1] if state.undo else None
    return None not in (before, state.score) and task.direction.sign * (state.score - before) < 0


def _model(tree: ast.Module, value: ast.expr) -> Idea:
    """A model as an idea: its expression, and the imports in the script of the names in it."""
    names = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
    imports = tuple(
        f"from {node.module} import {alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not node.level
        for alias in node.names
        if alias.name in names
    )
    return Idea("the same model", tuple(dict.fromkeys(imports)), ast.unparse(value))


def _only_used_in(line: str, lines: list[str], top: int, end: int) -> bool:
    """Whether `line` is an import from scikit-learn of names that occur in no line outside [top, end) but imports."""
    if not (found := re.match(r"\s*from sklearn[.\w]* import (\w+(?:, \w+)*)$", line)):
        return False
    rest = [other for i, other in enumerate(lines) if not top <= i < end and " import " not in other]
    return not any(re.search(rf"\b{name}\b", other) for name in found[1].split(", ") for other in rest)


def _edit(thought: str, search: str, replacement: str) -> str:
    return f"Thought: {thought}\nAction: Edit\n<<<<<<< SEARCH\n{search}\n=======\n{replacement}\n>>>>>>> REPLACE\n"
