"""The built-in expert's library of estimators: scikit-learn models, what to put around them, and their settings. Pure.

Invariants: a model is an expression with every import that it needs; it suits the kind of the task (`regression`,
`classification`, or `probability`: a classifier that must have predict_proba) and the form of its data; all of it works
in scikit-learn 1.2 and later. Settings that take long on a thousand rows are left out.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from envs import syntax

REGRESSION, CLASSIFICATION, PROBABILITY = "regression", "classification", "probability"
ANY = (REGRESSION, CLASSIFICATION, PROBABILITY)
CLASSIFIERS = (CLASSIFICATION, PROBABILITY)
MANY_ROWS = 10_000
OTHERS = 0.4
"""Probability with which a setting that need not be set is."""


@dataclass(frozen=True)
class Part:
    """An estimator or transformer; `{}` in the name stands for Classifier or Regressor."""

    label: str
    module: str
    name: str
    settings: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Sensible values of each parameter; the first is always set, since it bounds what the part costs."""
    kinds: Sequence[str] = ANY
    dense: bool = True
    """Takes tables; text counts, which are sparse, where `sparse`."""
    sparse: bool = False
    several: bool = True
    """Predicts several targets at once."""
    quick: bool = True
    """Ends within a minute on `MANY_ROWS` rows."""
    extras: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Settings worth a try on their own, not drawn with the others: value texts by parameter."""


@dataclass(frozen=True)
class Data:
    """What a part must cope with."""

    kind: str
    sparse: bool = False
    several: bool = False
    many: bool = False

    def suits(self, part: Part) -> bool:
        copes = part.sparse if self.sparse else part.dense
        return (
            copes and self.kind in part.kinds and (part.several or not self.several) and (part.quick or not self.many)
        )


@dataclass(frozen=True)
class Model:
    """What the script's model becomes."""

    thought: str
    imports: tuple[str, ...]
    expression: str


TREES = {"n_estimators": (50, 100, 200, 300), "min_samples_leaf": (1, 2, 3, 5), "max_features": (0.3, 0.5, "sqrt")}
BALANCED = {"class_weight": ("'balanced'",)}
ONLY_OF = {"class_weight": "Classifier", "loss": "Regressor"}
"""Extras that one of the two forms of an estimator does not have."""

MODELS = (
    Part("a random forest", "ensemble", "RandomForest{}", TREES, sparse=True, extras=BALANCED),
    Part("extremely randomised trees", "ensemble", "ExtraTrees{}", TREES, sparse=True, extras=BALANCED),
    Part("gradient boosting", "ensemble", "GradientBoosting{}",
         {"n_estimators": (30, 50, 80), "learning_rate": (0.05, 0.1, 0.2),
          "max_depth": (1, 2, 3), "subsample": (0.5, 0.8)},
         sparse=True, several=False, extras={"n_iter_no_change": ("5", "10"), "loss": ("'huber'",)}),
    Part("histogram boosting", "ensemble", "HistGradientBoosting{}",
         {"max_iter": (20, 40, 60), "learning_rate": (0.05, 0.1, 0.2), "max_leaf_nodes": (7, 15)},
         several=False, extras={"early_stopping": ("True",), "l2_regularization": ("0.1", "1.0")}),
    Part("AdaBoost", "ensemble", "AdaBoost{}", {"n_estimators": (30, 50, 100), "learning_rate": (0.1, 0.5, 1.0)},
         sparse=True, several=False),
    Part("bagged trees", "ensemble", "Bagging{}", {"n_estimators": (20, 50, 100), "max_samples": (0.5, 0.8)},
         sparse=True),
    Part("nearest neighbours", "neighbors", "KNeighbors{}",
         {"n_neighbors": (1, 3, 5, 7, 10, 15, 25), "weights": ("uniform", "distance")}, sparse=True,
         extras={"p": ("1",)}),
    Part("a single tree", "tree", "DecisionTree{}",
         {"max_depth": (2, 3, 4, 6, 8), "min_samples_leaf": (1, 3, 5, 10)}, sparse=True, extras=BALANCED),
    Part("a neural network", "neural_network", "MLP{}",
         {"hidden_layer_sizes": ((32,), (64,), (32, 32)), "max_iter": (200, 400), "alpha": (0.001, 0.1, 1.0)},
         sparse=True, quick=False, extras={"early_stopping": ("True",)}),
    Part("a Gaussian process", "gaussian_process", "GaussianProcess{}", {}, (PROBABILITY,), quick=False),
    Part("logistic regression", "linear_model", "LogisticRegression",
         {"C": (0.01, 0.1, 0.5, 1, 5, 20), "max_iter": (500, 1000)}, CLASSIFIERS, sparse=True, extras=BALANCED),
    Part("linear discriminants", "discriminant_analysis", "LinearDiscriminantAnalysis", {}, CLASSIFIERS),
    Part("quadratic discriminants", "discriminant_analysis", "QuadraticDiscriminantAnalysis",
         {"reg_param": (0.05, 0.1, 0.3)}, CLASSIFIERS),
    Part("naive Bayes", "naive_bayes", "GaussianNB", {"var_smoothing": (1e-9, 1e-5, 1e-2)}, CLASSIFIERS),
    Part("naive Bayes on counts", "naive_bayes", "MultinomialNB", {"alpha": (0.1, 0.3, 1.0)}, CLASSIFIERS,
         dense=False, sparse=True),
    Part("complement naive Bayes", "naive_bayes", "ComplementNB", {"alpha": (0.1, 0.3, 1.0)}, CLASSIFIERS,
         dense=False, sparse=True),
    Part("naive Bayes on presence", "naive_bayes", "BernoulliNB", {"alpha": (0.1, 0.3, 1.0)}, CLASSIFIERS,
         dense=False, sparse=True),
    Part("stochastic gradient descent", "linear_model", "SGDClassifier",
         {"loss": ("log_loss",), "alpha": (1e-4, 1e-3, 1e-2)}, CLASSIFIERS, sparse=True,
         extras={"loss": ("'modified_huber'",), **BALANCED}),
    Part("support vectors", "svm", "SVC", {"C": (0.3, 1, 3, 10), "gamma": ("scale", 0.001, 0.01)}, (CLASSIFICATION,),
         sparse=True, quick=False, extras=BALANCED),
    Part("linear support vectors", "svm", "LinearSVC", {"C": (0.01, 0.1, 1), "dual": (False,)}, (CLASSIFICATION,),
         dense=False, sparse=True, extras=BALANCED),
    Part("ridge classification", "linear_model", "RidgeClassifier", {"alpha": (0.1, 1.0, 10.0)}, (CLASSIFICATION,),
         sparse=True, extras=BALANCED),
    Part("support vectors", "svm", "SVR", {"C": (0.3, 1, 10, 50), "epsilon": (0.01, 0.1, 1.0)}, (REGRESSION,),
         sparse=True, several=False, quick=False),
    Part("ridge regression", "linear_model", "Ridge", {"alpha": (0.01, 0.1, 1.0, 10.0, 50.0)}, (REGRESSION,),
         sparse=True),
    Part("the lasso", "linear_model", "Lasso", {"alpha": (0.001, 0.01, 0.1, 1.0)}, (REGRESSION,), sparse=True),
    Part("an elastic net", "linear_model", "ElasticNet",
         {"alpha": (0.01, 0.1, 1.0), "l1_ratio": (0.2, 0.5, 0.8)}, (REGRESSION,), sparse=True),
    Part("robust regression", "linear_model", "HuberRegressor",
         {"epsilon": (1.1, 1.35, 2.0), "max_iter": (500, 1000)}, (REGRESSION,), several=False),
    Part("Bayesian ridge", "linear_model", "BayesianRidge", {}, (REGRESSION,), several=False),
    Part("kernel ridge", "kernel_ridge", "KernelRidge",
         {"alpha": (0.01, 0.1, 1.0), "kernel": ("rbf", "laplacian")}, (REGRESSION,), quick=False),
)  # fmt: skip


SCALERS = (
    Part("standardised features", "preprocessing", "StandardScaler"),
    Part("features scaled to [0, 1]", "preprocessing", "MinMaxScaler"),
    Part("robustly scaled features", "preprocessing", "RobustScaler"),
    Part("power-transformed features", "preprocessing", "PowerTransformer"),
    Part("quantile features", "preprocessing", "QuantileTransformer", {"n_quantiles": (10, 20, 50)}),
    Part("inverse document frequencies", "feature_extraction.text", "TfidfTransformer",
         {"sublinear_tf": (True, False)}, dense=False, sparse=True),
    Part("features divided by their maximum", "preprocessing", "MaxAbsScaler", dense=False, sparse=True),
    Part("rows of unit length", "preprocessing", "Normalizer", dense=False, sparse=True),
    Part("the presence of features", "preprocessing", "Binarizer", dense=False, sparse=True),
)  # fmt: skip

STEPS = (
    *SCALERS,
    Part("feature products", "preprocessing", "PolynomialFeatures", {"interaction_only": (True,)}),
    Part("spline features", "preprocessing", "SplineTransformer", {"n_knots": (3, 4, 5)}),
    Part("binned features", "preprocessing", "KBinsDiscretizer", {"n_bins": (4, 8, 16)}),
    Part("principal components", "decomposition", "PCA", {"n_components": (0.8, 0.9, 0.95, 0.99)}),
    Part("topics", "decomposition", "TruncatedSVD", {"n_components": (20, 50, 100)}, dense=False, sparse=True),
    Part("the best features", "feature_selection", "SelectPercentile", {"percentile": (50, 70, 85)}, sparse=True,
         several=False),
    Part("kernel features", "kernel_approximation", "Nystroem", {"n_components": (50, 100, 200)}),
)  # fmt: skip

LOG_TARGET = "TransformedTargetRegressor({}, func=np.log1p, inverse_func=np.expm1)"
WRAPPERS = (
    Part("bagged copies of", "ensemble", "Bagging{}", {"n_estimators": (3, 5, 8)}, sparse=True),
    Part("a transformed target for", "compose", "TransformedTargetRegressor", {}, (REGRESSION,), sparse=True),
    Part("calibrated probabilities for", "calibration", "CalibratedClassifierCV", {}, (PROBABILITY,), sparse=True),
)

PARTS = {
    part.name.format(suffix): part for part in (*STEPS, *WRAPPERS, *MODELS) for suffix in ("Classifier", "Regressor")
}
"""By the name in a script."""


def new_model(part: Part, scaler: Part | None, kind: str, rng: random.Random) -> Model:
    """Another model with random settings, behind a scaler."""
    model = Model(part.label, (_import(part, kind),), _call(part, kind, rng))
    return preprocessed(model, scaler, rng) if scaler else model


def preprocessed(present: Model, step: Part, rng: random.Random) -> Model:
    """The present model behind one more step."""
    imports = (*present.imports, "from sklearn.pipeline import make_pipeline", _import(step, REGRESSION))
    expression = f"make_pipeline({_call(step, REGRESSION, rng)}, {present.expression})"
    return _joined(f"{present.thought} on {step.label}", imports, expression)


def wrapped(present: Model, part: Part, kind: str, rng: random.Random) -> Model:
    """The present model inside another estimator."""
    transformer = (_import(SCALERS[3], kind),) if part.name == "TransformedTargetRegressor" else ()
    inner = f"{present.expression}, transformer=PowerTransformer()" if transformer else present.expression
    settings = _settings(part, rng)
    expression = f"{part.name.format(_suffix(kind))}({', '.join(filter(None, (inner, settings)))})"
    return _joined(f"{part.label} {present.thought}", (*present.imports, _import(part, kind), *transformer), expression)


def log_target(present: Model) -> Model:
    """The present regression on the logarithm of one plus the target."""
    imports = ("import numpy as np", *present.imports, "from sklearn.compose import TransformedTargetRegressor")
    return _joined(f"{present.thought} on a logarithmic target", imports, LOG_TARGET.format(present.expression))


def averaged(present: Model, other: Part, kind: str, rng: random.Random) -> Model:
    """The mean prediction of the present model and a new one."""
    second = new_model(other, None, kind, rng)
    name = f"Voting{_suffix(kind)}"
    vote = ", voting='soft'" if kind == PROBABILITY else ""
    expression = f"{name}([('a', {present.expression}), ('b', {second.expression})]{vote})"
    imports = (*present.imports, *second.imports, f"from sklearn.ensemble import {name}")
    return _joined(f"{present.thought} together with {second.thought}", imports, expression)


def settings_of(present: Model, listed: bool) -> dict[str, list[str]]:
    """`Name.parameter` → value texts that the present model does not have.

    listed: those of `Part.extras`, else those of `Part.settings`.
    """
    found: dict[str, list[str]] = {}
    for call in _calls(syntax.expression(present.expression)):
        part = PARTS[call.func.id]
        known = part.extras if listed else {name: map(repr, values) for name, values in part.settings.items()}
        have = {word.arg: ast.unparse(word.value) for word in call.keywords}
        for name, values in known.items():
            if name in ONLY_OF and not call.func.id.endswith(ONLY_OF[name]) and part.name.endswith("{}"):
                continue
            if fresh := [value for value in values if value != have.get(name)]:
                found[f"{call.func.id}.{name}"] = fresh
    return found


def retuned(present: Model, setting: str, value: str) -> Model:
    """The present model with one setting (`Name.parameter`) changed in the first call of that name."""
    owner, _, name = setting.rpartition(".")
    tree = syntax.expression(present.expression)
    call = next(call for call in _calls(tree) if call.func.id == owner)
    others = [word for word in call.keywords if word.arg != name]
    call.keywords = [*others, ast.keyword(name, syntax.expression(value))]
    return Model(f"{name}={value} in {present.thought}", present.imports, ast.unparse(tree))


def known_import(name: str) -> str | None:
    """The line that imports an estimator of this library, or None if it is not in it."""
    part = PARTS.get(name)
    return f"from sklearn.{part.module} import {name}" if part else None


def is_regression(model: Model) -> bool:
    """Whether the model predicts numbers, judged by its names."""
    names = [node.id for node in ast.walk(syntax.expression(model.expression)) if isinstance(node, ast.Name)]
    only = {part.name for part in MODELS if part.kinds == (REGRESSION,)} | {"LinearRegression"}
    return any(name in only or name.endswith("Regressor") for name in names)


def _calls(tree: ast.expr) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in PARTS
    ]


def _call(part: Part, kind: str, rng: random.Random) -> str:
    return f"{part.name.format(_suffix(kind))}({_settings(part, rng)})"


def _settings(part: Part, rng: random.Random) -> str:
    """The part's first setting and some of the others, so that their number varies too."""
    chosen = [name for place, name in enumerate(part.settings) if place == 0 or rng.random() < OTHERS]
    return ", ".join(f"{name}={rng.choice(part.settings[name])!r}" for name in chosen)


def _joined(thought: str, imports: tuple[str, ...], expression: str) -> Model:
    return Model(thought, tuple(dict.fromkeys(imports)), expression)


def _import(part: Part, kind: str) -> str:
    return f"from sklearn.{part.module} import {part.name.format(_suffix(kind))}"


def _suffix(kind: str) -> str:
    return "Regressor" if kind == REGRESSION else "Classifier"
