"""Operators on the syntax tree of any script: another number where one stands, and what PyTorch's training is made of.

They know no task and no script: a place is found by what it is in Python. Invariants: pure; what is not replaced stays
as it is written, to the byte; numbers that only name, seed or index something are left alone.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from actors.expert.script import Script

Rewrite = Callable[[Script, random.Random], "tuple[str, str] | None"]

LEFT_ALONE = re.compile(
    r"seed|state|verbose|jobs|workers|axis|dim$|index|^id|header|digits|version|precision|rank|^num_classes$|decimals"
)
"""Names of numbers that change no result for the better."""
SHARES = re.compile(r"^p$|dropout|size$|share|fraction|frac$|ratio|smoothing|momentum|subsample")
"""Names of numbers that stay below 1 where they are."""
FACTORS = {int: (0.25, 0.5, 2.0, 4.0), float: (0.1, 0.3, 3.0, 10.0)}
MOST_NAME = 40


def number_options(script: Script) -> dict[str, str]:
    """Place of a number → the idea in words."""
    return {name: f"another {name} than {ast.unparse(node)}" for name, node in _numbers(script).items()}


def number(script: Script, option: str, rng: random.Random) -> tuple[str, str] | None:
    """Another number at that place: larger or smaller by a factor."""
    node = _numbers(script)[option]
    values = [value for factor in FACTORS[type(node.value)] if (value := _scaled(option, node.value, factor))]
    if not values:
        return None
    new = rng.choice(values)
    return f"{option} of {new}", edited(script.text, [(node, new)])


def _scaled(name: str, value: float, factor: float) -> str | None:
    """The value times the factor, as a script would have it; None where that is none."""
    if isinstance(value, int):
        scaled = round(value * factor)
        return str(scaled) if scaled >= 1 and scaled != value else None
    below_one = 0 < value < 1 and SHARES.search(name)
    return None if below_one and value * factor >= 1 else repr(float(f"{value * factor:.3g}"))


def _numbers(script: Script) -> dict[str, ast.Constant]:
    """Numbers by what they are of, the first of each name; those of the model are `setting`'s."""
    inside = range(script.target.start + 1, script.target.end + 1) if script.target else range(0)
    found: dict[str, ast.Constant] = {}
    for name, node in _named(script.tree):
        number = isinstance(node, ast.Constant) and type(node.value) in FACTORS and node.value > 0
        if number and node.lineno not in inside and not LEFT_ALONE.search(name.rpartition(".")[2].lower()):
            found.setdefault(name, node)
    return {name: node for name, node in found.items() if len(name) <= MOST_NAME}


def _named(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """What may be a number, with a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            of = ast.unparse(node.func).rpartition(".")[2]
            yield from ((f"{of}.{keyword.arg}", keyword.value) for keyword in node.keywords if keyword.arg)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Gt | ast.GtE):
            yield f"least {ast.unparse(node.left)}", node.comparators[0]
        elif isinstance(node, ast.For) and re.fullmatch(r"range\(\w+\)", ast.unparse(node.iter)):
            yield f"number of {ast.unparse(node.target).strip('_') or 'round'}s", node.iter.args[0]


def edited(text: str, changes: Sequence[tuple[ast.AST, str]]) -> str:
    """The text with other code in the place of some expressions, none of which is inside another."""
    lines = [line.encode() for line in text.splitlines(keepends=True)]  # columns are of bytes
    for node, new in sorted(changes, key=lambda one: (one[0].lineno, one[0].col_offset), reverse=True):
        first, last = node.lineno - 1, node.end_lineno - 1
        whole = lines[first][: node.col_offset] + new.encode() + lines[last][node.end_col_offset :]
        lines[first : last + 1] = [whole]
    return b"".join(lines).decode()


OPTIMIZERS = {"AdamW": "1e-3", "Adam": "1e-3", "RMSprop": "1e-3", "SGD": "0.05, momentum=0.9", "NAdam": "2e-3"}
"""Each with a rate to begin with."""
ACTIVATIONS = ("ReLU", "GELU", "SiLU", "Tanh", "LeakyReLU")


def _calls(script: Script, names: Sequence[str]) -> list[ast.Call]:
    """Calls of what has one of these names, in a script that uses PyTorch."""
    return [call for name, call in script.calls_with_torch if name in names]


def _dotted(call: ast.Call) -> str:
    """What stands before the last name of a call; without it the name is imported alone, and no other may be there."""
    return ast.unparse(call.func).rpartition(".")[0]


def optimizer(name: str) -> Rewrite:
    """Another optimizer, with a rate that suits it."""

    def rewrite(script: Script, rng: random.Random) -> tuple[str, str] | None:
        others = [other for other in OPTIMIZERS if other != name]
        calls = [call for call in _calls(script, others) if _dotted(call) and call.args]
        if len(calls) != 1:
            return None
        new = f"{_dotted(calls[0])}.{name}({ast.unparse(calls[0].args[0])}, lr={OPTIMIZERS[name]})"
        return f"the optimizer {name}", edited(script.text, [(calls[0], new)])

    return rewrite


def decay(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """Weights drawn towards zero."""
    calls = _calls(script, list(OPTIMIZERS))
    if len(calls) != 1 or any(keyword.arg == "weight_decay" for keyword in calls[0].keywords):
        return None
    new = f"{ast.unparse(calls[0])[:-1]}, weight_decay={rng.choice(['1e-4', '1e-3', '1e-2'])})"
    return "weight decay", edited(script.text, [(calls[0], new)])


def activation(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """Another activation between layers."""
    calls = [call for call in _calls(script, ACTIVATIONS) if _dotted(call)]
    if not calls:
        return None
    present = {ast.unparse(call.func).rpartition(".")[2] for call in calls}
    name = rng.choice([one for one in ACTIVATIONS if one not in present])
    return f"{name} between layers", edited(script.text, [(call, f"{_dotted(call)}.{name}()") for call in calls])


def dropout(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """A part of what layers say left out at random, after each activation of a sequence of layers."""
    layers = {id(layer) for call in _calls(script, ["Sequential"]) for layer in call.args}
    calls = [call for call in _calls(script, ACTIVATIONS) if id(call) in layers and _dotted(call)]
    if not calls or _calls(script, ["Dropout"]):
        return None
    share = rng.choice(["0.1", "0.2", "0.5"])
    changes = [(call, f"{ast.unparse(call)}, {_dotted(call)}.Dropout({share})") for call in calls]
    return f"dropout of {share}", edited(script.text, changes)


def smoothing(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """Labels that are not quite certain."""
    calls = [call for call in _calls(script, ["CrossEntropyLoss"]) if not call.args and not call.keywords]
    if len(calls) != 1:
        return None
    new = f"{ast.unparse(calls[0].func)}(label_smoothing={rng.choice(['0.05', '0.1'])})"
    return "smoothed labels", edited(script.text, [(calls[0], new)])


NETWORK: Mapping[str, Rewrite] = {
    **{name: optimizer(name) for name in OPTIMIZERS},
    "decay": decay,
    "activation": activation,
    "dropout": dropout,
    "smoothing": smoothing,
}
