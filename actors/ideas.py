"""The built-in expert's library of ideas: scikit-learn models, what to put around them, and their settings. Pure.

Invariants: an idea is an expression with every import that it needs; it suits the kind of the task (`regression`,
`classification`, or `probability`: a classifier that must have predict_proba); all of it works in scikit-learn 1.2 and
later. Settings that take long on a thousand rows are left out.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

REGRESSION, CLASSIFICATION, PROBABILITY = "regression", "classification", "probability"
ANY = (REGRESSION, CLASSIFICATION, PROBABILITY)
CLASSIFIERS = (CLASSIFICATION, PROBABILITY)


@dataclass(frozen=True)
class Part:
    """An estimator or transformer; `{}` in the name stands for Classifier or Regressor."""

    label: str
    module: str
    name: str
    settings: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Sensible values of each parameter; the first is always set, since it bounds what the part costs."""
    kinds: Sequence[str] = ANY


@dataclass(frozen=True)
class Idea:
    """What the script's model becomes."""

    thought: str
    imports: tuple[str, ...]
    expression: str


TREES = {"n_estimators": (50, 100, 200, 300), "min_samples_leaf": (1, 2, 3, 5), "max_features": (0.3, 0.5, "sqrt")}

MODELS = (
    Part("a random forest", "ensemble", "RandomForest{}", TREES),
    Part("extremely randomised trees", "ensemble", "ExtraTrees{}", TREES),
    Part("gradient boosting", "ensemble", "GradientBoosting{}",
         {"n_estimators": (30, 50, 80), "learning_rate": (0.05, 0.1, 0.2),
          "max_depth": (1, 2, 3), "subsample": (0.5, 0.8)}),
    Part("histogram boosting", "ensemble", "HistGradientBoosting{}",
         {"max_iter": (20, 40, 60), "learning_rate": (0.05, 0.1, 0.2), "max_leaf_nodes": (7, 15)}),
    Part("AdaBoost", "ensemble", "AdaBoost{}", {"n_estimators": (30, 50, 100), "learning_rate": (0.1, 0.5, 1.0)}),
    Part("bagged trees", "ensemble", "Bagging{}", {"n_estimators": (20, 50, 100), "max_samples": (0.5, 0.8)}),
    Part("nearest neighbours", "neighbors", "KNeighbors{}",
         {"n_neighbors": (1, 3, 5, 7, 10, 15, 25), "weights": ("uniform", "distance")}),
    Part("a single tree", "tree", "DecisionTree{}",
         {"max_depth": (2, 3, 4, 6, 8), "min_samples_leaf": (1, 3, 5, 10)}),
    Part("a neural network", "neural_network", "MLP{}",
         {"hidden_layer_sizes": ((32,), (64,), (32, 32)), "max_iter": (200, 400), "alpha": (0.001, 0.1, 1.0)}),
    Part("a Gaussian process", "gaussian_process", "GaussianProcess{}", {}, (PROBABILITY,)),
    Part("logistic regression", "linear_model", "LogisticRegression",
         {"C": (0.01, 0.1, 0.5, 1, 5, 20), "max_iter": (500, 1000)}, CLASSIFIERS),
    Part("linear discriminants", "discriminant_analysis", "LinearDiscriminantAnalysis", {}, CLASSIFIERS),
    Part("quadratic discriminants", "discriminant_analysis", "QuadraticDiscriminantAnalysis",
         {"reg_param": (0.05, 0.1, 0.3)}, CLASSIFIERS),
    Part("naive Bayes", "naive_bayes", "GaussianNB", {"var_smoothing": (1e-9, 1e-5, 1e-2)}, CLASSIFIERS),
    Part("support vectors", "svm", "SVC", {"C": (0.3, 1, 3, 10), "gamma": ("scale", 0.001, 0.01)}, (CLASSIFICATION,)),
    Part("ridge classification", "linear_model", "RidgeClassifier", {"alpha": (0.1, 1.0, 10.0)}, (CLASSIFICATION,)),
    Part("support vectors", "svm", "SVR", {"C": (0.3, 1, 10, 50), "epsilon": (0.01, 0.1, 1.0)}, (REGRESSION,)),
    Part("ridge regression", "linear_model", "Ridge", {"alpha": (0.01, 0.1, 1.0, 10.0, 50.0)}, (REGRESSION,)),
    Part("the lasso", "linear_model", "Lasso", {"alpha": (0.001, 0.01, 0.1, 1.0)}, (REGRESSION,)),
    Part("an elastic net", "linear_model", "ElasticNet",
         {"alpha": (0.01, 0.1, 1.0), "l1_ratio": (0.2, 0.5, 0.8)}, (REGRESSION,)),
    Part("robust regression", "linear_model", "HuberRegressor",
         {"epsilon": (1.1, 1.35, 2.0), "max_iter": (500, 1000)}, (REGRESSION,)),
    Part("Bayesian ridge", "linear_model", "BayesianRidge", {}, (REGRESSION,)),
    Part("kernel ridge", "kernel_ridge", "KernelRidge",
         {"alpha": (0.01, 0.1, 1.0), "kernel": ("rbf", "laplacian")}, (REGRESSION,)),
)  # fmt: skip


SCALERS = (
    Part("standardised features", "preprocessing", "StandardScaler"),
    Part("features scaled to [0, 1]", "preprocessing", "MinMaxScaler"),
    Part("robustly scaled features", "preprocessing", "RobustScaler"),
    Part("power-transformed features", "preprocessing", "PowerTransformer"),
    Part("quantile features", "preprocessing", "QuantileTransformer", {"n_quantiles": (10, 20, 50)}),
)

STEPS = (
    *SCALERS,
    Part("feature products", "preprocessing", "PolynomialFeatures", {"interaction_only": (True,)}),
    Part("spline features", "preprocessing", "SplineTransformer", {"n_knots": (3, 4, 5)}),
    Part("principal components", "decomposition", "PCA", {"n_components": (0.8, 0.9, 0.95, 0.99)}),
    Part("the best features", "feature_selection", "SelectPercentile", {"percentile": (30, 50, 70)}),
)

WRAPPERS = (
    Part("bagged copies of", "ensemble", "Bagging{}", {"n_estimators": (3, 5, 8)}),
    Part("a transformed target for", "compose", "TransformedTargetRegressor", {}, (REGRESSION,)),
    Part("calibrated probabilities for", "calibration", "CalibratedClassifierCV", {}, (PROBABILITY,)),
)

PARTS = {
    part.name.format(suffix): part for part in (*STEPS, *WRAPPERS, *MODELS) for suffix in ("Classifier", "Regressor")
}
"""By the name in a script."""


def new_model(kind: str, rng: random.Random, scaled: float) -> Idea:
    """Another model with random settings; `scaled` is the probability of a scaler before it."""
    model = rng.choice([part for part in MODELS if kind in part.kinds])
    idea = Idea(model.label, (_import(model, kind),), _call(model, kind, rng))
    return _behind(idea, rng.choice(SCALERS), rng) if rng.random() < scaled else idea


def preprocessed(present: Idea, rng: random.Random) -> Idea:
    """The present model behind one more step."""
    return _behind(present, rng.choice(STEPS), rng)


def wrapped(present: Idea, kind: str, rng: random.Random) -> Idea:
    """The present model inside another estimator."""
    part = rng.choice([part for part in WRAPPERS if kind in part.kinds])
    transformer = (_import(SCALERS[3], kind),) if part.name == "TransformedTargetRegressor" else ()
    inner = f"{present.expression}, transformer=PowerTransformer()" if transformer else present.expression
    settings = _settings(part, rng)
    expression = f"{part.name.format(_suffix(kind))}({', '.join(filter(None, (inner, settings)))})"
    return _joined(f"{part.label} {present.thought}", (*present.imports, _import(part, kind), *transformer), expression)


def averaged(present: Idea, kind: str, rng: random.Random) -> Idea:
    """The mean prediction of the present model and a new one."""
    other = new_model(kind, rng, scaled=0.0)
    name = f"Voting{_suffix(kind)}"
    vote = ", voting='soft'" if kind == PROBABILITY else ""
    expression = f"{name}([('a', {present.expression}), ('b', {other.expression})]{vote})"
    imports = (*present.imports, *other.imports, f"from sklearn.ensemble import {name}")
    return _joined(f"{present.thought} together with {other.thought}", imports, expression)


def retuned(present: Idea, rng: random.Random) -> Idea | None:
    """The present model with one setting changed; None if it has no setting that is known here."""
    tree = ast.parse(present.expression, mode="eval")
    choices = [
        (call, name, value)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in PARTS
        for name, values in PARTS[call.func.id].settings.items()
        for value in values
        if not any(word.arg == name and ast.unparse(word.value) == repr(value) for word in call.keywords)
    ]
    if not choices:
        return None
    call, name, value = rng.choice(choices)
    others = [word for word in call.keywords if word.arg != name]
    call.keywords = [*others, ast.keyword(name, ast.Constant(value))]
    return Idea(f"{name}={value!r} in {present.thought}", present.imports, ast.unparse(tree))


def known_import(name: str) -> str | None:
    """The line that imports an estimator of this library, or None if it is not in it."""
    part = PARTS.get(name)
    return f"from sklearn.{part.module} import {name}" if part else None


def _call(part: Part, kind: str, rng: random.Random) -> str:
    return f"{part.name.format(_suffix(kind))}({_settings(part, rng)})"


def _settings(part: Part, rng: random.Random) -> str:
    """The part's first setting and most of the others, so that their number varies too."""
    chosen = [name for place, name in enumerate(part.settings) if place == 0 or rng.random() < 0.6]
    return ", ".join(f"{name}={rng.choice(part.settings[name])!r}" for name in chosen)


def _behind(idea: Idea, step: Part, rng: random.Random) -> Idea:
    imports = (*idea.imports, "from sklearn.pipeline import make_pipeline", _import(step, REGRESSION))
    expression = f"make_pipeline({_call(step, REGRESSION, rng)}, {idea.expression})"
    return _joined(f"{idea.thought} on {step.label}", imports, expression)


def _joined(thought: str, imports: tuple[str, ...], expression: str) -> Idea:
    return Idea(thought, tuple(dict.fromkeys(imports)), expression)


def _import(part: Part, kind: str) -> str:
    return f"from sklearn.{part.module} import {part.name.format(_suffix(kind))}"


def _suffix(kind: str) -> str:
    return "Regressor" if kind == REGRESSION else "Classifier"
