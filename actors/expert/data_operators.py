"""Operators on what surrounds the model: columns, missing values, words, images, rows, predictions, rankings.

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


WORD_LENGTH = r"train\[\"(\w+)\"\]\.str\.len\(\)"


def letters(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """Sequences of letters instead of the length of a word."""
    if not (node := script.statement(WORD_LENGTH)):
        return None
    column = re.search(WORD_LENGTH, script.source(node))[1]
    settings = f'analyzer="char_wb", ngram_range=(1, {rng.choice([2, 3, 4])})'
    new = (
        "from sklearn.feature_extraction.text import CountVectorizer\n"
        f"parts = CountVectorizer({settings})\n"
        f'X, X_test = parts.fit_transform(train["{column}"]), parts.transform(test["{column}"])'
    )
    return "sequences of letters", script.replaced(node, new)


def vowels(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """Groups of vowels instead of the length of a word."""
    if not (node := script.statement(WORD_LENGTH)):
        return None
    pattern = rng.choice(['"[aeiouy]+"', '"[aeiou]"', '"[aeiouy][^aeiouy]"'])
    return "groups of vowels", script.replaced(node, script.source(node).replace("len()", f"count({pattern})"))


TEST_PIXELS = r'^X_test = test\["images"\]\.reshape\(-1, 784\) / 255$'


def _on_images(script: Script, expression: str) -> str | None:
    """The script with an expression of `a` in the place of both tables of pixels."""
    if not (node := script.statement(TEST_PIXELS)) or "for a in" in script.text:
        return None
    return script.replaced(node, f"{script.source(node)}\nX, X_test = [{expression} for a in (X, X_test)]")


def pool(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """Smaller images: the means of squares of pixels."""
    side = rng.choice([2, 4])
    left = 28 // side
    small = f"a.reshape(-1, {left}, {side}, {left}, {side}).mean((2, 4)).reshape(-1, {left * left})"
    return (text := _on_images(script, small)) and (f"images of {left} by {left} pixels", text)


def binarise(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """Pixels that are either on or off."""
    return (text := _on_images(script, f"(a > {rng.choice([0.3, 0.5])}) * 1.0")) and ("pixels that are on or off", text)


def shift(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """Shifted copies of the training images beside them."""
    if not script.statement(TEST_PIXELS) or not (node := script.statement(r'^model\.fit\(X, train\["labels"\]\)$')):
        return None
    a, b = rng.choice([(1, 28), (1, -1), (28, -28)])
    new = (
        f"X = np.concatenate([X, np.roll(X, {a}, axis=1), np.roll(X, {b}, axis=1)])\n"
        'model.fit(X, np.tile(train["labels"], 3))'
    )
    return "shifted copies of the images", script.replaced(node, new)


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


RANKED = r"^ranked = best\.sort_values\("


def popularity(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """What many have chosen first."""
    node = script.statement(RANKED)
    if not node or 'sort_values("count"' in script.text:
        return None
    new = re.sub(r"sort_values\(\"\w+\"", 'sort_values("count"', script.source(node))
    return "the most popular first", script.replaced(node, new)


def damped(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """Means drawn towards a prior, so that few ratings do not decide."""
    if not (node := script.statement(RANKED)) or 'best["score"]' in script.text:
        return None
    weight, prior = rng.choice([20, 50, 100, 200, 400]), rng.choice([2, 3])
    score = f'best["score"] = (best["mean"] - {prior}) * best["count"] / (best["count"] + {weight})'
    new = re.sub(r"sort_values\(\"\w+\"", 'sort_values("score"', script.source(node))
    return "damped means", script.replaced(node, f"{score}\n{new}")


def weighted(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """The sum of what ratings are above a middling one."""
    if not (node := script.statement(RANKED)) or 'best["score"]' in script.text:
        return None
    score = f'best["score"] = (best["mean"] - {rng.choice([1, 2, 2.5, 3])}) * best["count"]'
    new = re.sub(r"sort_values\(\"\w+\"", 'sort_values("score"', script.source(node))
    return "the sum of good ratings", script.replaced(node, f"{score}\n{new}")


def threshold(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """Another number of ratings that a film needs."""
    if not (found := re.search(r"count >= (\d+)", script.text)):
        return None
    value = rng.choice([v for v in (5, 10, 50, 100, 150, 200) if str(v) != found[1]])
    return f"at least {value} ratings", script.text.replace(found[0], f"count >= {value}")


def newest_ratings(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """Ratings of the last time only."""
    node = script.statement(READ_TEST)
    if not node or "quantile(" in script.text or not script.statement(RANKED):
        return None
    share = rng.choice([0.3, 0.5, 0.7, 0.8])
    new = f'{script.source(node)}\ntrain = train[train["timestamp"] > train["timestamp"].quantile({share})]'
    return "recent ratings only", script.replaced(node, new)


def unseen(script: Script, rng: random.Random) -> tuple[str, str] | None:
    """Nothing that somebody has rated already."""
    node = script.statement(r"^prediction = \" \"\.join\(ranked\[:10\]\)$")
    if not node:
        return None
    new = (
        'seen = train.groupby("user")["movie"].agg(lambda films: set(films.astype(str)))\n'
        'prediction = [" ".join([f for f in ranked if f not in seen[u]][:10]) for u in test["id"]]'
    )
    return "films not yet rated", script.replaced(node, new)


def _q(text: str) -> str:
    return f'"{text}"'


REWRITES: Mapping[str, Mapping[str, Rewrite]] = {
    "columns": {
        **{way: encode(way) for way in ENCODINGS},
        "numbers": number_columns,
        "combined": combined,
    },
    "missing": {"constant": fill, "usual": impute},
    "words": {**{way: vectorise(way) for way in VECTORISERS}, "sequences": letters, "vowels": vowels},
    "images": {"pooled": pool, "binary": binarise, "shifted": shift},
    "rows": {"recent": recent},
    "prediction": {"clipped": clip},
    "ranking": {
        "popular": popularity,
        "damped": damped,
        "summed": weighted,
        "enough": threshold,
        "recent": newest_ratings,
        "unseen": unseen,
    },
}
