"""The data of the trajectory browser: an index of transitions and of the attempts of evaluations, and a block of
details per part of a run, which is a learner step or the evaluation of a stage.

Invariants: what an action, a log or a prompt holds leaves here as the base64 of compressed JSON, in which no markup can
be; control characters in it are visible codes; the browser unpacks a block only when one of its transitions is opened.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from learner.evaluation.evaluation import STAGES
from learner.figures.action_text import diff, visible
from learner.reporting import agents
from learner.reporting.report_data import RunData
from learner.run import transitions

Part = int | str
"""A learner step, a stage that was evaluated, or what an agent tried (`agents.PREFIX` and its name)."""
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


def tokenizer(run_dir: Path, model: str) -> Tokenizer | None:
    """That of the newest checkpoint, or of the model's folder; None where neither has one that can be read here."""
    checkpoints = sorted(run_dir.glob("checkpoints/step_*/hf/tokenizer.json"), key=lambda file: file.stat().st_mtime)
    for file in [*checkpoints[::-1], Path(model) / "tokenizer.json"]:
        with contextlib.suppress(Exception):  # the library has no narrower one for a file that is missing or damaged
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


def parts(run_dir: Path) -> list[Part]:
    """Those that there is something of, as the run went: `base` and `sft`, the learner steps, `rl`; then the agents
    that were evaluated. Raises ValueError where a file is damaged."""
    there = transitions.parts(run_dir)
    steps = sorted(part for part in there if isinstance(part, int))
    before, after = ([stage for stage in of if stage in there] for of in (STAGES[:-1], STAGES[-1:]))
    return [*before, *steps, *after, *agents.parts(run_dir)]


def path(run_dir: Path, part: Part) -> Path:
    """The file that a part is in."""
    return agents.path(run_dir) if _is_agent(part) else transitions.path(run_dir, part)


def _is_agent(part: Part) -> bool:
    return isinstance(part, str) and part.startswith(agents.PREFIX)


def build(run: RunData, steps: Iterable[int]) -> tuple[str, dict[Part, str]]:
    """The packed index of the attempts of evaluations and of the transitions of these steps, and a packed block by
    part.

    The index is `{column of INDEX: values, "finding": what is suspicious in each}`, as of `index`.
    """
    reader = tokenizer(run.dir, run.config["model"]["path"])
    whole: dict[str, list] = {name: [] for name in (*INDEX, "finding")}
    blocks, chosen = {}, set(steps)
    for part in (part for part in parts(run.dir) if isinstance(part, str) or part in chosen):
        rows = read(run.dir, part)
        for name, values in index(rows).items():
            whole[name] += values
        blocks[part] = pack(block(run.dir, part, rows, reader))
    return pack(whole), blocks


def read(run_dir: Path, part: Part) -> list[dict[str, Any]]:
    """What a part tried. Of an evaluation its stage is in the place of the step, and before the id.

    Raises:
        ValueError: its file is damaged; the message names it.
    """
    if _is_agent(part):
        return agents.read(run_dir, part)
    rows = transitions.read_part(run_dir, part, COLUMNS, ("prompt_ids",))
    return [row | {"step": part, "id": f"{part}/{row['id']}"} for row in rows] if isinstance(part, str) else rows


def index(rows: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """A list of values for each column of INDEX, and for `finding`."""
    columns = {name: [_plain(row.get(column)) for row in rows] for name, column in INDEX.items()}
    return columns | {"finding": [sorted(row.get("findings") or ()) for row in rows]}


def block(run_dir: Path, part: Part, rows: Sequence[Mapping[str, Any]], reader: Tokenizer | None) -> dict[str, Any]:
    """`{"prompts": texts, "rows": [details of a transition, in the order of its index]}`; rows: as `read` has them."""
    prompts = transitions.prompts(run_dir, part) if reader and not _is_agent(part) else {}
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
