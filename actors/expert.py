"""The built-in expert: proposes randomly chosen improvements of a script, written as the policy would write them.

It reads the script's syntax tree, finds the line that builds the model, and replaces it by another model, other
settings, or the same model behind preprocessing. It needs no teacher model. Invariants: pure, and the same for the
same random generator; in a state whose last run failed it repairs or takes back, never builds on the failure.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from envs.records import State, Task

CLASSIFICATION_METRICS = frozenset({"accuracy", "log loss", "AUC", "F1", "QWK", "MAP@3"})
MAX_WRAPPED = 100
"""Characters of a model expression that is still put behind one more preprocessing step."""

Settings = Callable[[random.Random], str]


@dataclass(frozen=True)
class Model:
    """An estimator of scikit-learn: `{}` in its name stands for Classifier or Regressor."""

    module: str
    name: str
    settings: Settings
    label: str
    tasks: str = "cr"
    """`c` classification, `r` regression, `p` classification without probabilities."""


def _one(name: str, *values: object) -> Settings:
    return lambda rng: f"{name}={rng.choice(values)}"


def _all(*settings: Settings) -> Settings:
    return lambda rng: ", ".join(setting(rng) for setting in settings)


TREES = _one("n_estimators", 50, 100, 150, 200, 300)
DEPTH = _one("max_depth", 2, 3, 4, 6, 8, 12)
LEAF = _one("min_samples_leaf", 1, 2, 3, 5, 8)
RATE = _one("learning_rate", 0.02, 0.05, 0.1, 0.2)

MODELS = (
    Model("ensemble", "RandomForest{}", _all(TREES, LEAF), "a random forest"),
    Model("ensemble", "ExtraTrees{}", _all(TREES, LEAF), "extremely randomised trees"),
    Model("ensemble", "GradientBoosting{}", _all(_one("n_estimators", 50, 80, 120), RATE, DEPTH), "gradient boosting"),
    Model("ensemble", "AdaBoost{}", _all(TREES, RATE), "AdaBoost"),
    Model("ensemble", "Bagging{}", TREES, "bagged trees"),
    Model("neighbors", "KNeighbors{}", _one("n_neighbors", 1, 3, 5, 7, 10, 15, 25), "nearest neighbours"),
    Model("tree", "DecisionTree{}", _all(DEPTH, LEAF), "a single tree"),
    Model("neural_network", "MLP{}", _all(_one("hidden_layer_sizes", "(32,)", "(64,)", "(32, 32)"),
          _one("max_iter", 200, 400)), "a neural network"),
    Model("linear_model", "LogisticRegression", _all(_one("C", 0.01, 0.1, 0.5, 1, 5, 20), _one("max_iter", 1000, 3000)),
          "logistic regression", "c"),
    Model("discriminant_analysis", "LinearDiscriminantAnalysis", lambda rng: "", "discriminant analysis", "c"),
    Model("discriminant_analysis", "QuadraticDiscriminantAnalysis", _one("reg_param", 0.0, 0.1, 0.3),
          "quadratic discriminants", "c"),
    Model("naive_bayes", "GaussianNB", _one("var_smoothing", 1e-9, 1e-5, 1e-2), "naive Bayes", "c"),
    Model("svm", "SVC", _all(_one("C", 0.1, 1, 3, 10), _one("gamma", '"scale"', 0.001, 0.01, 0.1)),
          "a support vector machine", "p"),
    Model("linear_model", "RidgeClassifier", _one("alpha", 0.1, 1.0, 10.0), "ridge classification", "p"),
    Model("svm", "SVR", _all(_one("C", 0.1, 1, 10, 50), _one("epsilon", 0.01, 0.1, 1.0)), "support vectors", "r"),
    Model("linear_model", "Ridge", _one("alpha", 0.01, 0.1, 1.0, 10.0, 50.0), "ridge regression", "r"),
    Model("linear_model", "Lasso", _one("alpha", 0.001, 0.01, 0.1, 1.0), "the lasso", "r"),
    Model("linear_model", "ElasticNet", _all(_one("alpha", 0.01, 0.1, 1.0), _one("l1_ratio", 0.2, 0.5, 0.8)),
          "an elastic net", "r"),
    Model("linear_model", "HuberRegressor", _one("epsilon", 1.1, 1.35, 2.0), "robust regression", "r"),
    Model("linear_model", "BayesianRidge", lambda rng: "", "Bayesian ridge", "r"),
)  # fmt: skip

STEPS = (
    ("preprocessing", "StandardScaler", lambda rng: "", "standardised features"),
    ("preprocessing", "MinMaxScaler", lambda rng: "", "features scaled to [0, 1]"),
    ("preprocessing", "RobustScaler", lambda rng: "", "robustly scaled features"),
    ("preprocessing", "PowerTransformer", lambda rng: "", "power-transformed features"),
    ("preprocessing", "QuantileTransformer", _one("n_quantiles", 20, 50), "quantile features"),
    ("preprocessing", "PolynomialFeatures", lambda rng: "2, interaction_only=True", "feature products"),
    ("decomposition", "PCA", _one("n_components", 0.8, 0.9, 0.95, 0.99), "principal components"),
    ("feature_selection", "SelectKBest", _one("k", 2, 3, '"all"'), "selected features"),
)
USUAL_STEPS = STEPS[:4]


@dataclass(frozen=True)
class Idea:
    """What the model line becomes."""

    thought: str
    imports: tuple[str, ...]
    expression: str


@dataclass(frozen=True)
class Target:
    """The lines that build the model, with the imports right above them."""

    text: str
    imports: tuple[str, ...]
    expression: str


def propose(task: Task, state: State, files: Mapping[str, str], rng: random.Random, mistakes: float) -> str:
    """Text of the expert's next action.

    mistakes: probability of an action that is broken on purpose, so that error states come about.
    """
    script = files[task.script]
    failed = state.score is None and bool(state.history)
    target = find_model(script)
    if target is None or (failed and state.undo and rng.random() < 0.3):
        return "Thought: the last edit broke the script, take it back\nAction: Undo\n"
    wrap = not failed and len(target.expression) <= MAX_WRAPPED and rng.random() < 0.2
    idea = wrapped(target, rng) if wrap else new_model(task, script, rng)
    if failed:
        idea = Idea(f"the script fails, use {idea.thought}", idea.imports, idea.expression)
    action = write(target, idea)
    return broken(action, target, rng) if rng.random() < mistakes else action


def find_model(script: str) -> Target | None:
    """Where the script assigns `model`; None if it does not, or does not parse."""
    try:
        tree = ast.parse(script)
    except SyntaxError:
        return None
    lines = script.splitlines()
    for place, node in enumerate(tree.body):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "model":
            start = node.lineno
            while place and _is_import(tree.body[place - 1]) and tree.body[place - 1].end_lineno == start - 1:
                place -= 1
                start = tree.body[place].lineno
            imports = tuple(lines[start - 1 : node.lineno - 1])
            return Target("\n".join(lines[start - 1 : node.end_lineno]), imports, ast.unparse(node.value))
    return None


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom | ast.Import)


def new_model(task: Task, script: str, rng: random.Random) -> Idea:
    """A model of the right kind with random settings, half of the time behind a usual preprocessing step."""
    kinds = "r"
    if task.metric in CLASSIFICATION_METRICS:
        kinds = "c" if "predict_proba" in script else "cp"
    model = rng.choice([m for m in MODELS if set(m.tasks) & set(kinds)])
    name = model.name.format("Regressor" if kinds == "r" else "Classifier")
    idea = Idea(model.label, (f"from sklearn.{model.module} import {name}",), f"{name}({model.settings(rng)})")
    return _behind(idea, rng.choice(USUAL_STEPS), rng) if rng.random() < 0.5 else idea


def wrapped(target: Target, rng: random.Random) -> Idea:
    """The present model behind one more preprocessing step."""
    return _behind(Idea("the same model", target.imports, target.expression), rng.choice(STEPS), rng)


def _behind(idea: Idea, step: tuple[str, str, Settings, str], rng: random.Random) -> Idea:
    module, name, settings, label = step
    imports = (*idea.imports, "from sklearn.pipeline import make_pipeline", f"from sklearn.{module} import {name}")
    expression = f"make_pipeline({name}({settings(rng)}), {idea.expression})"
    return Idea(f"{idea.thought} on {label}", tuple(dict.fromkeys(imports)), expression)


def write(target: Target, idea: Idea) -> str:
    """The action text that puts the idea in the place of the target."""
    new = "\n".join([*idea.imports, f"model = {idea.expression}"])
    return _edit(f"try {idea.thought}", target.text, new)


def _edit(thought: str, search: str, replacement: str) -> str:
    return (
        f"Thought: {thought}\nAction: Edit\n<<<<<<< SEARCH\n{search}\n=======\n{replacement}\n>>>>>>> REPLACE\n"
    )


def broken(action: str, target: Target, rng: random.Random) -> str:
    """The same action with one of the mistakes that people make."""
    head, _, new = action.partition("=======\n")
    match rng.randrange(4):
        case 0:  # the search text is not in the file
            return action.replace(f"SEARCH\n{target.text}", f"SEARCH\n{target.text.replace('model', 'clf', 1)}", 1)
        case 1:  # an import is missing
            kept = [line for line in new.splitlines(keepends=True) if not line.startswith("from ")]
            return f"{head}=======\n{''.join(kept)}"
        case 2:  # a parenthesis is missing
            return f"{head}=======\n" + new.replace(")\n", "\n", 1)
        case _:  # there is no such setting
            return f"{head}=======\n" + new.replace("model = ", "model = dict(depth=3) | ", 1)
