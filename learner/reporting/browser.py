"""The data of the report's trajectory browser: an index of all transitions and of the attempts of evaluations, and a
block of details per learner step and stage.

Invariants: what an action, a log or a prompt holds leaves here as the base64 of compressed JSON, in which no markup can
be; control characters in it are visible codes; the browser unpacks a block only when one of its transitions is opened.
"""

from __future__ import annotations

import base64
import gzip
import itertools
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from learner.evaluation.evaluation import STAGES
from learner.figures.action_text import diff, visible
from learner.reporting.report_data import RunData
from learner.run import transitions

DURATIONS = ("generate", "queue", "restore", "execute", "grade")
COLUMNS = [name for name in transitions.SCHEMA.names if name != "behaviour_logprobs"]
INDEX = {
    "step": "step",
    "id": "id",
    "task": "task_id",
    "actor": "actor_id",
    "action": "action",
    "outcome": "outcome",
    "reward": "reward",
    "before": "score_before",
    "after": "score_after",
    "advantage": "advantage",
    "ratio": "ratio",
    "loss": "loss",
    "seconds": "execute_seconds",
}
"""Columns of the index, and where they come from."""


def tokenizer(run: RunData) -> Tokenizer | None:
    """That of the newest checkpoint, or of the model's folder; None where neither has one that can be read here."""
    checkpoints = sorted(run.dir.glob("checkpoints/step_*/hf/tokenizer.json"), key=lambda file: file.stat().st_mtime)
    for file in [*checkpoints[::-1], Path(run.config["model"]["path"]) / "tokenizer.json"]:
        if file.is_file():
            return Tokenizer.from_file(str(file))
    return None


def choose(steps: Sequence[int], most: int) -> list[int]:
    """At most `most` steps, in order: the newest half, and others evenly spread over the rest."""
    if len(steps) <= most:
        return list(steps)
    newest = steps[len(steps) - (most + 1) // 2 :]
    rest, wanted = steps[: -len(newest)], most - len(newest)
    return [*(rest[i * len(rest) // wanted] for i in range(wanted)), *newest]


def pack(value: Any) -> str:
    """Base64 of gzipped JSON; NaN and infinities, which JSON has not, become null."""
    return base64.b64encode(gzip.compress(msgspec.json.encode(value), 6, mtime=0)).decode()


def build(run: RunData, steps: Iterable[int]) -> tuple[str, dict[int | str, str]]:
    """The packed index of the attempts of evaluations and of the transitions of these steps, and a packed block by
    stage and step.

    The index is `{"prompts": whether there are any, column of INDEX: values, "finding": what is suspicious in each}`,
    as the run went: `base` and `sft`, the steps, `rl`. What an evaluation tried has its stage in the place of the step,
    and before its id. A block is `{"prompts": texts, "rows": [details of a transition, in the order of the index]}`.
    """
    reader, chosen = tokenizer(run), set(steps)
    index: dict[str, Any] = {"prompts": reader is not None} | {name: [] for name in (*INDEX, "finding")}
    blocks = {}
    for part, rows in _parts(run, chosen):
        for name, column in INDEX.items():
            index[name] += [_plain(row.get(column)) for row in rows]
        index["finding"] += [sorted(row.get("findings") or ()) for row in rows]
        blocks[part] = pack(_block(rows, transitions.prompts(run.dir, part) if reader else {}, reader))
    return pack(index), blocks


def _parts(run: RunData, steps: Container[int]) -> Iterator[tuple[int | str, list[dict[str, Any]]]]:
    """What is shown of each stage and of these steps, as the run went."""
    counted = ("prompt_ids",)
    tried = {
        stage: [
            row | {"step": stage, "id": f"{stage}/{row['id']}"}
            for row in transitions.read_attempts(run.dir, stage, COLUMNS, counted)
        ]
        for stage in STAGES
    }
    of_steps = itertools.groupby(transitions.read(run.dir, COLUMNS, counted), lambda row: row["step"])
    for part, rows in itertools.chain(
        ((stage, tried[stage]) for stage in STAGES[:-1]),
        ((step, list(rows)) for step, rows in of_steps if step in steps),
        ((stage, tried[stage]) for stage in STAGES[-1:]),
    ):
        if rows:
            yield part, rows


def _block(
    rows: Sequence[Mapping[str, Any]], prompts: Mapping[str, Sequence[int]], reader: Tokenizer | None
) -> dict[str, Any]:
    places = {group: place for place, group in enumerate(prompts)}
    return {
        "prompts": [visible(reader.decode(ids, skip_special_tokens=False)) for ids in prompts.values()],
        "rows": [_details(row, reader) | {"prompt": places.get(row["group_id"])} for row in rows],
    }


def _details(row: Mapping[str, Any], reader: Tokenizer | None) -> dict[str, Any]:
    return {
        "diff": diff(row["text"]),
        "log": visible(row["log_tail"]),
        "parts": {visible(name): value for name, value in row["reward_parts"].items()},
        "seconds": {part: row[f"{part}_seconds"] for part in DURATIONS},
        "spans": _spans(row, reader),
        "tokens": [row["prompt_ids"], len(row["response_ids"])],
        "fault": row.get("fault") or "",
        "test": row.get("test_score"),
        "findings": {visible(name): visible(why) for name, why in (row.get("findings") or {}).items()},
        "milestones": row["milestones"],
        "peak_mb": row["peak_mb"],
        "origin": row["origin"],
        "state": visible(row["state_id"]),
        "group": visible(row["group_id"]),
    }


def _spans(row: Mapping[str, Any], reader: Tokenizer | None) -> list[tuple[int, int, int, str | None]]:
    """(weight version, start, end, the text of these tokens where several versions wrote the response)."""
    spans = row["version_spans"]
    split = reader is not None and len(spans) > 1
    return [
        (
            span["version"],
            span["start"],
            span["end"],
            visible(reader.decode(row["response_ids"][span["start"] : span["end"]], skip_special_tokens=False))
            if split
            else None,
        )
        for span in spans
    ]


def _plain(value: Any) -> Any:
    return visible(value) if isinstance(value, str) else value
