"""Operators on what surrounds the model: columns, missing values, words, rows, predictions.

Each rewrite takes a script and a generator for its settings, and gives (what it tries, the new script), or None where
the script has no such place. Invariants: pure; both tables, for training and for the prediction, are treated alike;
nothing of the test table's target is used, since there is none.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Mapping

from actors.expert.estimators import REGRESSION
from actors.expert.script import Script

Rewrite = Callable[[Script, random.Random], "tuple[str, str] | None"]

SPLIT = "[: len(train)], both[len(train) :]"
CODES = """\
both = pd.concat([train, test])
for name in test.select_dtypes(exclude="number"):
    both[name] = pd.factorize(both[name])[0]"""
DUMMIES = "both = pd.get_dummies(pd.concat([train, test]), dtype=float)"
MEANS = """\
for name in test.select_dtypes(exclude="number"):
    means = train.groupby(name)["target"].mean()
    train[name], test[name] = train[name].map(means), test[name].map(means).fillna(means.mean())"""
ENCODINGS = {
    "codes": ("text columns as numbers", f"{CODES}\ntrain, test = both{SPLIT}"),
    "means": ("mean targets of categories", MEANS),
    "dummies": ("a column for each category", f"{DUMMIES}\ntrain, test = both{SPLIT}"),
}
READ_TEST = r"^test = pd\.read_csv\("
LISTED = r"^(\w+) = \[\"\w+\"(, \"\w+\")*\]$"
"""A list of columns."""
SUBSET = r"^X, X_test = train\[\[.*\]\].*, test\[\[.*\]\]"
SELECTED = r"^X, y = train\[\[.*\]\], train\[\"target\"\]$"
FILLED = re.compile(r"\.fillna\((0|-1|-999)\)")


def encode(way: str) -> Rewrite:
    """Categories that the script leaves out become columns that it uses."""
    label, code = ENCODINGS[way]

    def rewrite(script: Script, rng: random.Random) -> tuple[str, str] | None:
        encoded = "exclude=" in script.text or "get_dummies" in script.text
        if encoded or not (reading := script.statement(READ_TEST)) or (script.names_classes and way != "codes"):
            return None
        if node := _listed(script):
            lines = code
            if way == "codes" and "fillna" not in script.text:
                lines = code.replace("\ntrain, test", "\nboth = both.fillna(-1)\ntrain, test")
            all_of_them = 'test.columns.drop("id")' if way == "means" else 'both.columns.drop(["id", "target"])'
            name = ast.unparse(node.targets[0])
            return f"all columns with {label}", script.replaced(node, f"{lines}\n{name} = {all_of_them}")
        if (node := script.statement(SUBSET)) and way != "means":
            return f"all columns with {label}", script.replaced(node, _both_parts(way))
        if 'select_dtypes("number")' in script.text:
            return label, script.replaced(reading, f"{script.source(reading)}\n{code}")
        return None

    return rewrite


def _listed(script: Script) -> ast.stmt | None:
    """The list of the columns that the model is fitted to."""
    node = script.statement(LISTED)
    fitted = node and f".fit(train[{ast.unparse(node.targets[0])}]" in script.text
    return node if fitted else None


def _both_parts(way: str) -> str:
    """X and X_test of all columns but `id` and `target`, with a number for what is missing."""
    if way == "dummies":
        rows = DUMMIES.replace("test])", 'test]).drop(columns=["id", "target"])') + ".fillna(-1)"
        return f"{rows}\nX, X_test = both{SPLIT}"
    rows = CODES.replace("test])", 'test]).drop(columns=["id", "target"])').replace("in test.", "in both.")
    return f"{rows}\nboth = both.fillna(-1)\nX, X_test = both{SPLIT}"


def number_columns(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """All columns of numbers instead of some."""
    numbers = 'train.select_dtypes("number")'
    if node := _listed(script):
        new = f'{ast.unparse(node.targets[0])} = {numbers}.columns.drop(["id", "target"])'
    elif node := script.statement(SELECTED):
        new = f'X, y = {numbers}.drop(columns=["id", "target"]), train["target"]'
    else:
        return None
    return "all columns of numbers", script.replaced(node, new)


def combined(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """The difference or product of two of the listed columns, as one more."""
    if not (node := _listed(script)) or not script.statement(READ_TEST):
        return None
    names = [constant.value for constant in ast.walk(node) if isinstance(constant, ast.Constant)]
    if len(names) < 2:
        return None
    a, b = rng.sample(names, 2)
    sign, label = rng.choice([("-", "difference"), ("*", "product")])
    new = f"{a}_{b}"
    assigned = f"table[{_q(new)}] = table[{_q(a)}] {sign} table[{_q(b)}]"
    columns = ", ".join(_q(name) for name in [*names, new])
    variable = ast.unparse(node.targets[0])
    text = script.replaced(node, f"for table in (train, test):\n    {assigned}\n{variable} = [{columns}]")
    return f"the {label} of columns as a feature", text


def fill(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """Another number for what is missing, which trees can tell from a real one."""
    if not (found := FILLED.search(script.text)):
        return None
    value = rng.choice([v for v in ("0", "-1", "-999") if v != found[1]])
    return f"{value} for missing values", FILLED.sub(f".fillna({value})", script.text)


def impute(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """The median of the training table for what is missing."""
    for place in (".fillna(0)", ".fillna(-1)", ".fillna(-999)"):
        if (node := script.statement(r"= train\[\[")) and place in script.source(node):
            filled = script.source(node).replace(place, ".fillna(train.median(numeric_only=True))")
            return "the median for missing values", script.replaced(node, filled)
    node = script.statement(READ_TEST)
    filled = node and FILLED.search(script.source(node))
    if not filled or not (reading := script.statement(r"^train = pd\.read_csv\(")):
        return None
    if node.lineno != reading.end_lineno + 1:
        return None
    old = "\n".join((script.source(reading), script.source(node)))
    way = rng.choice(["median", "mean"])
    new = f"{FILLED.sub('', old)}\nusual = train.{way}(numeric_only=True)\n" + (
        "train, test = train.fillna(usual), test.fillna(usual)"
    )
    return f"the {way} for missing values", script.text.replace(old, new)


VECTORISERS = {
    "tfidf": ("weighted words", "TfidfVectorizer", "sublinear_tf=True"),
    "pairs": ("pairs of words", "TfidfVectorizer", "ngram_range=(1, 2), min_df={min_df}, sublinear_tf=True"),
    "letters": (
        "sequences of letters", "TfidfVectorizer",
        'analyzer="char_wb", ngram_range=({low}, {high}), min_df={min_df}, sublinear_tf=True',
    ),
    "more": ("more words", "CountVectorizer", "max_features={features}"),
    "presence": ("the presence of words", "CountVectorizer", "binary=True, min_df={min_df}"),
    "rare": ("words that are not rare", "TfidfVectorizer", "min_df={min_df}"),
    "triples": ("sequences of three words", "TfidfVectorizer", "ngram_range=(1, 3), min_df={min_df}"),
    "logarithm": ("counts on a logarithmic scale", "TfidfVectorizer", "use_idf=False, sublinear_tf=True"),
    "meaning": ("words that carry meaning", "TfidfVectorizer", 'stop_words="english", min_df={min_df}'),
    "cased": ("words with their capitals", "TfidfVectorizer", "lowercase=False, min_df={min_df}"),
    "marks": ("words and punctuation", "TfidfVectorizer", r'token_pattern=r"\w+|[!?]+", min_df={min_df}'),
    "across": ("letters across words", "TfidfVectorizer", 'analyzer="char", ngram_range=({low}, 4), min_df={min_df}'),
    "without": ("words without the most common", "CountVectorizer", "max_df=0.3, min_df={min_df}"),
}  # fmt: skip


def vectorise(way: str) -> Rewrite:
    """Another way to count words."""
    label, name, pattern = VECTORISERS[way]

    def rewrite(script: Script, rng: random.Random) -> tuple[str, str] | None:
        if not (node := script.statement(r"^\w+ = (Count|Tfidf|Hashing)Vectorizer\(")):
            return None
        settings = _text_settings(pattern, rng)
        new = f"{ast.unparse(node.targets[0])} = {name}({settings})"
        imported = f"from sklearn.feature_extraction.text import {name}"
        return label, script.replaced(node, new if imported in script.text else f"{imported}\n{new}")

    return rewrite


def _text_settings(pattern: str, rng: random.Random) -> str:
    low = rng.choice([1, 2])
    values = {
        "min_df": rng.choice([2, 3, 5]),
        "low": low,
        "high": low + rng.choice([2, 3]),
        "features": rng.choice([1000, 3000, 10000]),
    }
    return pattern.format(**values)


def recent(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """The newest rows only, where the rows are in the order of time."""
    in_time = re.search(r"\"(year|date|timestamp|hour)\"", script.text)
    if not in_time or "tail(" in script.text or not (node := script.statement(READ_TEST)):
        return None
    share = rng.choice(["2", "3", "4"])
    return "the newest rows only", script.replaced(
        node, f"{script.source(node)}\ntrain = train.tail(len(train) // {share})"
    )


def clip(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """Predictions within the range of the known targets."""
    node = script.statement(r"^prediction = model\.predict\(.*\)$")
    if not node or script.data.kind != REGRESSION or script.data.several or "clip(" in script.text:
        return None
    new = f'{script.source(node)}.clip(train["target"].min(), train["target"].max())'
    return "predictions within the known range", script.replaced(node, new)


def _q(text: str) -> str:
    return f'"{text}"'


REWRITES: Mapping[str, Mapping[str, Rewrite]] = {
    "columns": {
        **{way: encode(way) for way in ENCODINGS},
        "numbers": number_columns,
        "combined": combined,
    },
    "missing": {"constant": fill, "usual": impute},
    "words": {way: vectorise(way) for way in VECTORISERS},
    "rows": {"recent": recent},
    "prediction": {"clipped": clip},
}
