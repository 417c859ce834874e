"""What fine-tuning leaves to go on from, wherever it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from learner.config.load import load
from learner.ranks.group import LearnerError
from learner.ranks.steps import FinetuneStep, Position
from learner.recipe import finetuning

STEPS = 4


class Learner:
    """In the place of the ranks: a checkpoint is the number of its step."""

    def __init__(self, full_at: int = 0) -> None:
        self.position, self._full_at = Position(), full_at

    def finetune(self, examples: object) -> Iterator[FinetuneStep]:
        while self.position.sft_steps < STEPS:
            self.position.sft_steps += 1
            yield FinetuneStep(self.position.sft_steps, STEPS, 1.0, 1.0, 1e-5, 1.0)

    def loss(self, examples: object) -> None:
        return None

    def save(self, folder: Path) -> None:
        (folder / "weights").write_text(str(self.position.sft_steps))
        if self.position.sft_steps == self._full_at:
            raise LearnerError("cannot write checkpoint")

    def restart_from(self, folder: Path) -> None:
        assert (folder / "weights").exists()

    def load(self, folder: Path) -> None:
        self.position.sft_steps = int((folder / "weights").read_text())


def test_a_checkpoint_that_fails_leaves_the_last_and_no_trace_and_it_is_gone_on_from(tmp_path: Path) -> None:
    cfg, said = load(["sft.checkpoint_every=1", "sft.held_out=0"]), []
    silent = SimpleNamespace(say=said.append, stage=lambda *_, **__: None, advance=lambda **_: None)
    with pytest.raises(LearnerError, match="cannot write"):
        finetuning.finetune(cfg, tmp_path, Learner(full_at=3), [], silent)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["finetuning"]
    (tmp_path / "checkpoints/.partial-finetuning").mkdir()  # of a process that was killed
    learner = Learner()
    finetuning.finetune(cfg, tmp_path, learner, [], silent)
    assert said == ["fine-tuning goes on after step 2"] and learner.position.sft_steps == STEPS
    (tmp_path / "checkpoints/.partial-finetuning").mkdir()
    finetuning.forget(tmp_path)
    assert not list((tmp_path / "checkpoints").iterdir())
