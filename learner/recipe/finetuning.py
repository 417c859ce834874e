"""The fine-tuning of one run on its expert's actions: resumable, with its loss on examples that are kept back.

Invariants: no example is both trained on and kept back; `finetune.jsonl` tells every step once; a run that was
interrupted goes on from `checkpoints/finetuning`, and ends with the weights of an undisturbed one.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from learner.algorithm import batching
from learner.algorithm.batching import Example
from learner.config.schema import Config
from learner.ranks.handle import Learner
from learner.run.progress import Progress

LOG = "finetune.jsonl"
RESULT = "finetune.json"
PARTIAL = ".partial-finetuning"


def finetune(cfg: Config, run_dir: Path, learner: Learner, examples: Sequence[Example], progress: Progress) -> None:
    """Train on the examples; leaves `finetune.json` (examples, held-out loss before and after, in nats per token).

    Raises:
        LearnerError: there is no example, or a rank failed.
    """
    trained, kept_back = batching.split(examples, cfg.sft.held_out, cfg.run.seed)
    folder, result = run_dir / "checkpoints" / "finetuning", run_dir / RESULT
    if folder.exists() and result.exists():
        learner.load(folder)
        about = json.loads(result.read_text())
        progress.say(f"fine-tuning goes on after step {learner.position.sft_steps}")
    else:
        about = {"examples": len(trained), "held_out_examples": len(kept_back), "loss_before": learner.loss(kept_back)}
        _write(result, json.dumps(about))
    rows = [json.loads(line) for line in _lines(run_dir / LOG)][: learner.position.sft_steps]
    progress.stage("fine-tune", 0, done=learner.position.sft_steps)
    for done in learner.finetune(trained):
        rows = [*rows[: done.step - 1], dataclasses.asdict(done)]
        _write(run_dir / LOG, "".join(json.dumps(row) + "\n" for row in rows))
        progress.advance(**rows[-1])
        if done.step % cfg.sft.checkpoint_every == 0 and done.step < done.total:
            _checkpoint(folder, learner)
    about["loss_after"] = learner.loss(kept_back)
    _write(result, json.dumps(about))
    if kept_back:
        progress.say(
            f"loss on {len(kept_back)} examples kept back: {about['loss_before']:.3f} → {about['loss_after']:.3f}"
        )


def forget(run_dir: Path) -> None:
    """Delete what an interrupted fine-tuning would go on from."""
    shutil.rmtree(run_dir / "checkpoints" / "finetuning", ignore_errors=True)
    _forget_partial(run_dir / "checkpoints")


def _checkpoint(folder: Path, learner: Learner) -> None:
    """Put a new one in the place of the last, which is there as long as that is not; what failed leaves no trace."""
    partial, last = folder.with_name(PARTIAL), folder.with_name(f"{PARTIAL}-last")
    _forget_partial(folder.parent)
    try:
        partial.mkdir(parents=True)
        learner.save(partial)
        if folder.exists():
            folder.rename(last)
        partial.rename(folder)
        learner.restart_from(folder)
    finally:
        _forget_partial(folder.parent)


def _forget_partial(checkpoints: Path) -> None:
    for partial in checkpoints.glob(f"{PARTIAL}*"):
        shutil.rmtree(partial, ignore_errors=True)


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def _write(file: Path, text: str) -> None:
    partial = file.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(file)
