"""Small changes of meaning to a module's source, one at a time: mutmut's operators on libcst's tree, and two of ours,
which leave out a call that stands alone and invert a bare condition. `LEFT_OUT` says what is not changed.
"""

from __future__ import annotations

import ast
import collections
import difflib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation import mutators

LEFT_OUT = """\
Not changed, since no program reads it: annotations, docstrings, imports, decorators, __repr__, what is raised or
logged, texts for people (strings of three words and more). Of each argument of a call there is one mutant: a keyword's
is left out, so that a default takes its place, a positional one becomes None."""
LOGGED = m.SimpleStatementLine(
    [
        m.Expr(m.Call(m.Attribute(m.Name("log") | m.Name("warnings"))))
        | m.Assign([m.AssignTarget(m.Name("log") | m.Name("__all__"))])
    ]
)
NOTHING_TO_PROGRAMS = (
    m.If(m.Name("TYPE_CHECKING"))
    | m.Annotation()
    | m.Decorator()
    | m.Import()
    | m.ImportFrom()
    | m.Raise()
    | m.FunctionDef(m.Name("__repr__"))
    | LOGGED
)

UNPACKING = m.Assign([m.AssignTarget(m.Tuple())])
NEVER_WITHOUT = m.Call(m.Name("len") | m.Name("isinstance"))


@dataclass(frozen=True)
class Mutant:
    """One change; `path`, `where` and `change` name it in the file of accepted survivors."""

    path: str
    where: str
    """Qualified name of the function or class that holds it; empty at module level."""
    change: str
    """Lines taken out (`-`) and put in (`+`), without indentation."""
    lines: range
    """Of the statement part that is changed."""
    at_import: bool
    """It runs when the module is imported, before any test."""
    source: str
    """The whole module with the change."""
    occurrence: int = 0
    """Which of those with the same name it is."""

    @property
    def id(self) -> str:
        return hashlib.sha256(repr((self.path, self.where, self.change, self.occurrence)).encode()).hexdigest()[:16]


def mutants(path: str, source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of the source."""
    wrapper = MetadataWrapper(cst.parse_module(source))
    visitor = _Visitor()
    wrapper.visit(visitor)
    module, text = wrapper.module, wrapper.module.code_for_node
    start = "".join(text(line) for line in module.header)
    before, after, at = {}, {}, len(start)  # the source around each statement of the module
    for statement in module.body:
        before[statement] = source[:at]
        at += len(text(statement))
        after[statement] = source[at:]
    results, names = [], collections.Counter[tuple[str, str]]()
    for change in visitor.changes:
        statement = text(change.top)
        mutated = text(change.top.deep_replace(change.old, change.new))
        if not _differs(statement, mutated):
            continue
        name = (change.where, _difference(statement.splitlines(), mutated.splitlines()))
        whole = before[change.top] + mutated + after[change.top]
        results.append(Mutant(path, *name, change.lines, change.at_import, whole, names[name]))
        names[name] += 1
    return results


@dataclass(frozen=True)
class _Change:
    top: cst.CSTNode
    """The module's statement that holds it."""
    old: cst.CSTNode
    new: cst.CSTNode
    where: str
    lines: range
    at_import: bool


class _Visitor(cst.CSTVisitor):
    """Collects the changes of a module."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        self.changes: list[_Change] = []
        self._scopes: list[cst.FunctionDef | cst.ClassDef] = []
        self._statements: list[cst.CSTNode] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if m.matches(node, NOTHING_TO_PROGRAMS) or _for_people(node):
            return False
        if isinstance(node, cst.BaseCompoundStatement | cst.SimpleStatementLine):
            self._statements.append(node)
        for replacement in _replacements(node):
            self.changes.append(self._change(node, replacement))
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self._scopes.append(node)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        for stack in (self._statements, self._scopes):
            if stack and stack[-1] is original_node:
                stack.pop()

    def _change(self, old: cst.CSTNode, new: cst.CSTNode) -> _Change:
        position, statement = (self.get_metadata(PositionProvider, node) for node in (old, self._statements[-1]))
        lines = range(position.start.line, position.end.line + 1)
        if isinstance(self._statements[-1], cst.SimpleStatementLine):
            lines = range(statement.start.line, statement.end.line + 1)
        functions = [
            scope for scope in self._scopes if isinstance(scope, cst.FunctionDef) and scope is not self._statements[-1]
        ]
        where = ".".join(scope.name.value for scope in self._scopes)
        return _Change(self._statements[0], old, new, where, lines, at_import=not functions)


def _replacements(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    for kind, operator in mutators.mutation_operators:
        if isinstance(node, kind):
            if operator is mutators.operator_string:
                yield from list(operator(node))[:1]  # the others only change its case
            elif operator is mutators.operator_arg_removal:
                yield from _arguments(node)
            elif operator is mutators.operator_assignment and m.matches(node, UNPACKING):
                continue  # None cannot be unpacked, as every test sees
            else:
                yield from operator(node)
    if isinstance(node, cst.Expr) and m.matches(node.value, m.Call() | m.Await(m.Call())):
        yield cst.Pass()
    if isinstance(node, cst.If | cst.While | cst.CompIf | cst.IfExp) and m.matches(
        node.test, m.Name() | m.Attribute() | m.Call() | m.NamedExpr() | m.Subscript() | m.Await()
    ):
        inverted = cst.UnaryOperation(
            cst.Not(), node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        )
        yield node.with_changes(test=inverted)


def _arguments(call: cst.Call) -> Iterator[cst.Call]:
    """mutmut removes each argument as well as replacing it: half of these are calls that cannot be."""
    if m.matches(call, NEVER_WITHOUT):
        return
    for place, argument in enumerate(call.args):
        if argument.keyword:
            yield call.with_changes(args=[*call.args[:place], *call.args[place + 1 :]])
        elif not argument.star and not m.matches(argument.value, m.Name("None")):
            replaced = argument.with_changes(value=cst.Name("None"))
            yield call.with_changes(args=[*call.args[:place], replaced, *call.args[place + 1 :]])


def _for_people(node: cst.CSTNode) -> bool:
    if isinstance(node, cst.SimpleString | cst.ConcatenatedString):
        value = node.evaluated_value
        return isinstance(value, str) and len(value.split()) >= 3
    if isinstance(node, cst.FormattedString):
        return len("".join(part.value for part in node.parts if m.matches(part, m.FormattedStringText())).split()) >= 3
    return False


def _differs(statement: str, mutated: str) -> bool:
    """Whether it is a program, and another."""
    try:
        return ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(statement))
    except SyntaxError:
        return False


def _difference(before: list[str], after: list[str]) -> str:
    changed = [line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line[0] in "+-"][2:]
    return "\n".join(f"{line[0]} {line[1:].strip()}" for line in changed)
