"""How the score of a plain script is found in what it prints. Pure; docs/solve.md tells it to users.

1. A line that is a JSON object with the metric's name among its keys: `{"accuracy": 0.91}`; of several the last.
2. A line `NAME: 0.91`, `NAME = 0.91`, `NAME is 0.91` or `NAME 0.91`. The words right before and after the metric's name
   belong to the label: `CV accuracy: 0.8` is no `accuracy`. The label that is the metric's own name counts, else the
   only one that there is; of several lines with one label the last.

Invariants: what could be meant in two ways is `Unclear`, whose message says what to do; what is no finite number is
never a score, nor is an earlier one in its place.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

HUGE = 1e300
SHOWN = 5
"""Labels that a message lists at most."""
NUMBER = r"[-+−]?(?:\d+(?:,\d+)*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf(?:inity)?)\b|none\b"
WRAPPED = r"(?:(?:np\.float\d+|numpy\.float\d+|tensor|array)\(\s*)?\[{0,2}\s*"
"""What numbers of NumPy and PyTorch are printed in."""
VALUE = rf"{WRAPPED}(?P<number>{NUMBER})(?P<percent>\s?%)?(?!\w)"
SIGN = r"\s*(?::|=>|->|→|=|\||\.{3,})\s*"
BLANK = r"(?:\s+is\s+|\s+of\s+|\s+)"
AFTER = r"(?P<after>(?:[ ]?\([^()\d]{0,30}\)|[ ](?!is\b|of\b)[^\W\d][\w-]*){1,5})"
"""Words between a metric's name and the colon, such as `on the test set` or `(test)`."""
THOUSANDS = re.compile(r"[-+−]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?(?:[eE][-+]?\d+)?")
ENDS_PREFIX = re.compile(r".*[,;:|)\]}>=]$")
ANY = re.compile(rf"(?P<label>[^\W\d][\w@./-]*(?: [\w@./-]+){{0,3}})\s*[:=]\s*{VALUE}", re.IGNORECASE)
"""What may be meant as a score, for messages."""


class Unclear(ValueError):
    """No score, or one that could be another; the message says what to do."""


@dataclass(frozen=True)
class Found:
    """A score, and where it stood."""

    value: float
    label: str
    """As it was printed, in lower case; empty where a JSON line told it."""
    line: str


def find(output: str, metric: str, label: str | None = None) -> Found:
    """The score in what a script printed.

    label: of an earlier `Found` of this script, so that only what was read then is read again; None: not known yet.

    Raises:
        Unclear: there is none, or it is no finite number, or there are several that could be meant.
    """
    if label in (None, "") and (found := _of_json(output, metric)):
        return _finite(found[-1], metric)
    if label == "":
        raise Unclear(f"it printed no more JSON line with the key {metric!r}")
    spots = list(_spots(output, metric))
    if label is not None:
        spots = [spot for spot in spots if spot.label == label]
        if not spots:
            raise Unclear(f"it printed no line like `{label}: 0.9`")
        return _finite(spots[-1], metric)
    labels = list(dict.fromkeys(spot.label for spot in spots))
    exact = [spot for spot in spots if spot.label == _plain(metric)]
    if len(labels) == 1 or len(exact) == 1:
        return _finite((exact or spots)[-1], metric)
    if labels:
        raise Unclear(
            f"it prints {metric} as {_listed(labels)}: say which one is meant, as metric={_quoted(labels[-1])}, or "
            f'have it print a line {{"{metric}": …}} (docs/solve.md says how scores are found)'
        )
    near = list(dict.fromkeys(match["label"] for match in ANY.finditer(output)))
    hint = f"; it prints {_listed(near)}: give one of these as metric=…" if near else ""
    raise Unclear(f"it printed no line like `{metric}: 0.9`{hint}")


def only_number(output: str) -> Found:
    """The number that is the last line, as a score command prints it.

    Raises:
        Unclear: that line is no number.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if not lines or not (match := re.fullmatch(VALUE, lines[-1], re.IGNORECASE)):
        raise Unclear(f"its last line is no number: {lines[-1][:80]!r}" if lines else "it printed nothing")
    return _finite(_spot(match, "", lines[-1]), "its last line")


@dataclass(frozen=True)
class _Spot:
    label: str
    line: str
    value: float
    problem: str = ""


def _of_json(output: str, metric: str) -> list[_Spot]:
    """Of each line that is an object with that key."""
    spots = []
    for line in output.splitlines():
        if not line.lstrip().startswith("{"):
            continue
        try:
            stated = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(stated, dict) and metric in stated:
            value = stated[metric]
            number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < HUGE
            problem = "" if number or value != value else f"{json.dumps(value)[:40]} is no number"
            spots.append(_Spot("", line.strip()[:120], float(value) if number else math.nan, problem))
    return spots


def _spots(output: str, metric: str) -> Iterator[_Spot]:
    """Each place where the metric's name is followed by a number."""
    name = r"\s+".join(map(re.escape, metric.split()))
    between = rf"(?:{AFTER}{SIGN}|[\"'*`]*(?:{SIGN}|{BLANK}))"
    pattern = re.compile(rf"(?<!\w)(?P<name>{name})(?!\w){between}{VALUE}", re.IGNORECASE)
    for line in output.splitlines():
        for match in pattern.finditer(line):
            before, words = line[: match.start()], _before(line[: match.start()])
            attached = not words or not before[-1].isspace()
            label = f"{' '.join(words)}{'' if attached else ' '}{match['name']} {match['after'] or ''}"
            yield _spot(match, _plain(label), line)


def _before(text: str) -> list[str]:
    """The words right before a metric's name that belong to it."""
    words = []
    for word in reversed(text.split()):
        if not re.search(r"[^\W\d]", word) or ENDS_PREFIX.fullmatch(word):
            break
        words.append(word.lstrip("\"'([{*`"))
        if words[-1] != word:
            break
    return words[::-1]


def _spot(match: re.Match[str], label: str, line: str) -> _Spot:
    text, rest = match["number"], line[match.end() :]
    shown = line.strip()[:120]
    several = "[" in match[0] and not re.match(r"\s*\]", rest)
    if several or re.match(r"[,/:.]\d", rest) or ("," in text and not THOUSANDS.fullmatch(text)):
        return _Spot(label, shown, math.nan, f"{shown!r} can be read in two ways: print one number, with a point alone")
    plain = text.replace(",", "").replace("−", "-")
    value = math.nan if plain.lower() == "none" else float(plain)
    return _Spot(label, shown, value / 100 if match["percent"] else value)


def _finite(spot: _Spot, metric: str) -> Found:
    if spot.problem:
        raise Unclear(f"its {metric} cannot be read: {spot.problem}")
    if not math.isfinite(spot.value):
        raise Unclear(f"its last {metric} is no finite number: {spot.line!r}")
    return Found(spot.value, spot.label, spot.line)


def _plain(label: str) -> str:
    return " ".join(label.lower().split())


def _listed(labels: list[str]) -> str:
    shown = ", ".join(f"`{label}`" for label in labels[:SHOWN])
    return f"{shown} and {len(labels) - SHOWN} more" if len(labels) > SHOWN else shown


def _quoted(label: str) -> str:
    return f"'{label}'" if " " in label else label
