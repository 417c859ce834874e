"""Operators: the kinds of improvement that the built-in expert knows, each a function from a script to a new one.

An idea is an operator with one of its options (which model, which step, which encoding); what it comes to in a script
depends on the script and on random settings. Invariants: pure; an operator offers only options that suit the script; a
change brings its imports along.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from actors.expert import data_operators, estimators, tree_operators
from actors.expert.estimators import MODELS, SCALERS, STEPS, WRAPPERS, Model, Part
from actors.expert.script import Script


@dataclass(frozen=True)
class Idea:
    """One thing to try."""

    operator: str
    option: str
    text: str
    """In words; for an expert that is a language model, all that it is told."""
    seed: int | None = None
    """Settles the random settings; None leaves them open."""
    then: Idea | None = None
    """A second thing to do in the same change."""


@dataclass(frozen=True)
class Change:
    """What an idea makes of a script."""

    operator: str
    thought: str
    text: str
    """The new script."""
    short: str | None = None
    """The same with unused imports left in: a shorter edit."""


@dataclass(frozen=True)
class Operator:
    """A kind of improvement."""

    weight: float
    """How often the expert picks it of its own accord, relative to others."""
    options: Callable[[Script], Mapping[str, str]]
    """Option → the idea in words."""
    change: Callable[[Script, str, random.Random], Change | None]


def ideas(script: Script) -> list[Idea]:
    """Everything that there is to try on a script."""
    return [
        Idea(name, option, text)
        for name, operator in OPERATORS.items()
        for option, text in operator.options(script).items()
    ]


def change(idea: Idea, script: Script, rng: random.Random) -> Change | None:
    """What the idea makes of the script; None where it does not suit it, or changes nothing."""
    operator = OPERATORS[idea.operator]
    if idea.option not in operator.options(script):
        return None
    made = operator.change(script, idea.option, rng if idea.seed is None else random.Random(idea.seed))
    if not made or made.text == script.text:
        return None
    if not idea.then:
        return made
    second = change(idea.then, Script(made.text, script.task), rng)
    return second and Change(made.operator, f"{made.thought} and {second.thought.removeprefix('try ')}", second.text)


def any_change(script: Script, rng: random.Random) -> Change | None:
    """A random change, its operator drawn by weight; None where no operator suits the script."""
    applicable = {name: options for name, op in OPERATORS.items() if (options := list(op.options(script)))}
    if not applicable:
        return None
    name = rng.choices(list(applicable), [OPERATORS[name].weight for name in applicable])[0]
    return OPERATORS[name].change(script, rng.choice(applicable[name]), rng)


def to_model(script: Script, model: Model, operator: str) -> Change:
    """The script with another model."""
    short = script.with_model(model, keep_imports=True)
    return Change(operator, f"try {model.thought}", script.with_model(model), short)


def random_model(script: Script, rng: random.Random, scaled: float) -> Model:
    """Another model; `scaled` is the probability of a scaler before it."""
    part = rng.choice([part for part in MODELS if script.data.suits(part)])
    scalers = [part for part in SCALERS if script.data.suits(part)]
    return estimators.new_model(part, rng.choice(scalers) if rng.random() < scaled else None, script.data.kind, rng)


def _labels(script: Script, parts: tuple[Part, ...], text: str) -> dict[str, str]:
    """Name → text of the parts that suit a script which has a model."""
    if not script.target:
        return {}
    return {part.name: text.format(part.label) for part in parts if script.data.suits(part)}


def _model_options(script: Script) -> dict[str, str]:
    models = _labels(script, MODELS, "{}")
    scaled = _labels(script, SCALERS, "{}")
    both = {f"{name} {scaler}": f"{text} on {on}" for name, text in models.items() for scaler, on in scaled.items()}
    return models | both


def _model(script: Script, option: str, rng: random.Random) -> Change:
    name, _, scaler = option.partition(" ")
    model = estimators.new_model(_part(name), _part(scaler) if scaler else None, script.data.kind, rng)
    return to_model(script, model, "model")


def _step_options(script: Script) -> dict[str, str]:
    return _labels(script, STEPS, "the same model on {}")


def _step(script: Script, option: str, rng: random.Random) -> Change:
    return to_model(script, estimators.preprocessed(script.target.model, _part(option), rng), "step")


def _is_fit_for_wrapping(script: Script) -> bool:
    """Whether the present model is of the kind that wrappers made for the task take."""
    return bool(script.target) and estimators.is_regression(script.target.model) == (
        script.data.kind == estimators.REGRESSION
    )


def _wrap_options(script: Script) -> dict[str, str]:
    return _labels(script, WRAPPERS, "{} the same model") if _is_fit_for_wrapping(script) else {}


def _wrap(script: Script, option: str, rng: random.Random) -> Change:
    model = estimators.wrapped(script.target.model, _part(option), script.data.kind, rng)
    return to_model(script, model, "wrap")


def _average_options(script: Script) -> dict[str, str]:
    applicable = _is_fit_for_wrapping(script) and not script.data.several
    return _labels(script, MODELS, "the same model together with {}") if applicable else {}


def _average(script: Script, option: str, rng: random.Random) -> Change:
    model = estimators.averaged(script.target.model, _part(option), script.data.kind, rng)
    return to_model(script, model, "average")


def _setting_options(listed: bool) -> Callable[[Script], dict[str, str]]:
    def options(script: Script) -> dict[str, str]:
        settings = estimators.settings_of(script.target.model, listed) if script.target else {}
        return {setting: f"another {setting.replace('.', ' ')} than now" for setting in settings}

    return options


def _setting(listed: bool) -> Callable[[Script, str, random.Random], Change]:
    def change(script: Script, option: str, rng: random.Random) -> Change:
        values = estimators.settings_of(script.target.model, listed)[option]
        model = estimators.retuned(script.target.model, option, rng.choice(values))
        return to_model(script, model, "extra" if listed else "setting")

    return change


def _log_options(script: Script) -> dict[str, str]:
    applicable = _is_fit_for_wrapping(script) and script.data.kind == estimators.REGRESSION and not script.data.several
    fresh = applicable and "log1p" not in script.text
    return {"log1p": "the same model fitted to the logarithm of the target"} if fresh else {}


def _log(script: Script, option: str, rng: random.Random) -> Change:
    return to_model(script, estimators.log_target(script.target.model), "target")


def _rewrites(name: str, weight: float, rewrites: Mapping[str, tree_operators.Rewrite]) -> Operator:
    """An operator whose options are rewrites of the script."""

    def make(script: Script, option: str, rng: random.Random) -> Change | None:
        made = rewrites[option](script, rng)
        return made and Change(name, f"try {made[0]}", made[1])

    def options(script: Script) -> dict[str, str]:
        # A rewrite draws settings, not whether it suits the script: any generator tells.
        made = {option: rewrite(script, random.Random(0)) for option, rewrite in rewrites.items()}
        return {option: one[0] for option, one in made.items() if one}

    return Operator(weight, options, make)


def _number(script: Script, option: str, rng: random.Random) -> Change | None:
    made = tree_operators.number(script, option, rng)
    return made and Change("number", f"try {made[0]}", made[1])


def _part(name: str) -> Part:
    return next(part for part in (*MODELS, *STEPS, *WRAPPERS) if part.name == name)


OPERATORS = {
    "model": Operator(12, _model_options, _model),
    "step": Operator(4, _step_options, _step),
    "setting": Operator(3, _setting_options(False), _setting(False)),
    "extra": Operator(1, _setting_options(True), _setting(True)),
    "wrap": Operator(1, _wrap_options, _wrap),
    "average": Operator(2, _average_options, _average),
    "target": Operator(1, _log_options, _log),
    "columns": _rewrites("columns", 5, data_operators.REWRITES["columns"]),
    "missing": _rewrites("missing", 2, data_operators.REWRITES["missing"]),
    "words": _rewrites("words", 6, data_operators.REWRITES["words"]),
    "rows": _rewrites("rows", 1, data_operators.REWRITES["rows"]),
    "prediction": _rewrites("prediction", 1, data_operators.REWRITES["prediction"]),
    "number": Operator(1, tree_operators.number_options, _number),
    "network": _rewrites("network", 6, tree_operators.NETWORK),
}
