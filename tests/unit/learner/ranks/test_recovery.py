"""A learner whose ranks die, whenever that is, ends with what an undisturbed one has."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.records import Outcome, Transition
from learner.algorithm.batching import Example
from learner.algorithm.policy_sums import PolicySums
from learner.config.defaults import defaults
from learner.config.schema import Config
from learner.ranks import handle
from learner.ranks.group import LearnerError, RankDied
from learner.ranks.handle import Learner
from learner.ranks.steps import Position


class Ranks:
    """In the place of the processes: their weights are the list of steps that made them, lost when they start anew.

    `dies` are the calls, counted over the whole run, in which a rank dies once it has done its part.
    """

    def __init__(self, cfg: Config, model_dir: Path, places: Any) -> None:
        self.cfg, self.model_dir = cfg, model_dir
        self.calls, self.dies = 0, ()
        self.disk: dict[Path, Any] = {}

    def __len__(self) -> int:
        return 1

    def start(self) -> None:
        self.weights: list[Any] = []
        self.looks = 0

    def close(self) -> None:
        del self.weights

    def everyone(self, method: str, *args: Any) -> list[Any]:
        answer = getattr(self, f"_{method}")(*args)
        self.calls += 1
        if self.calls - 1 in self.dies:
            raise RankDied(f"learner rank 0 died in {method}")
        return [answer]

    def each(self, method: str, shards: list[Any], *args: Any) -> list[Any]:
        return self.everyone(method, shards[0], *args)

    def _finetune_step(self, rows: list[Any], tokens: int, rate: float) -> tuple[float, float]:
        self.weights.append((rate, [row.input_ids.tolist() for row in rows]))
        return 1.0, 1.0

    def _policy_step(self, rows: list[Any], rate: float, first: bool, part: int, entropy: float) -> PolicySums:
        self.weights.append((rate, entropy, [one.row.input_ids.tolist() for one in rows]))
        return PolicySums(tokens=1)

    def _reset_optimizer(self) -> None:
        self.weights.append("reset")

    def _hold_reference(self, folder: Path) -> None:
        self.reference = folder

    def _publish(self, *_: Any) -> list[Any]:
        return list(self.weights)

    def _save(self, folder: Path, position: dict[str, int]) -> None:
        self.disk[folder] = list(self.weights), position

    def _begin_save(self, folder: Path, position: dict[str, int]) -> None:
        self.copied, self.looks = (folder, (list(self.weights), position)), 1

    def _writing(self) -> bool:
        self.looks -= 1
        return self.looks >= 0

    def _write_model(self, folder: Path) -> None:
        self.looks = 1

    def _finish_write(self) -> None:
        self.disk |= [self.copied]

    def _load(self, folder: Path) -> dict[str, int]:
        self.weights, position = list(self.disk[folder][0]), self.disk[folder][1]
        return position


def transition(step: int, member: int) -> Transition:
    ids = np.array([step, member], np.int32)
    return Transition(
        id=f"{step}.{member}", group_id=str(step), state_id="s", task_id="t", prompt_ids=ids[:1], response_ids=ids,
        behaviour_logprobs=np.zeros(2, np.float32), version_spans=((1, 0, 2),), outcome=Outcome.EDITED,
        reward=float(member),
    )  # fmt: skip


def trained(dies: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, beside: bool = False) -> tuple[Any, int]:
    """What actors get at the end of a run, and how many calls the ranks had.

    beside: its last checkpoint is written while the steps after it are made.
    """
    cfg = defaults()
    cfg.sft.batch, cfg.sft.epochs, cfg.learner.restarts, cfg.learner.row_tokens = 2, 3, len(dies), 8
    monkeypatch.setattr(handle, "RankGroup", Ranks)
    learner = Learner(cfg, Path("model"), lambda _: None)
    learner._ranks.dies = dies
    examples = [Example(np.array([i], np.int32), np.array([i, 1], np.int32)) for i in range(4)]
    for done in learner.finetune(examples):
        if done.step % 2 == 0 and done.step < done.total:
            learner.save(Path("finetuning"))
    learner.save(Path("step_0"))
    learner.hold_reference(Path("reference"))
    writing: Generator[None, None, bool] | None = None
    for step in range(4):
        learner.train([[transition(step, member) for member in range(2)]], step + 1)
        if step == 1 and not beside:
            learner.save(Path("step_2"))
        if step == 1 and beside:
            writing = learner.saving(Path("step_2"))
        if writing:
            next(writing, None)
    weights, calls = learner.publish(1, 5), learner._ranks.calls
    if Path("step_2") in learner._ranks.disk:
        assert learner._ranks.disk[Path("step_2")][0] == weights[:-2], "as they were at the step"
    return weights, calls


@pytest.mark.parametrize("beside", [False, True])
def test_whichever_call_a_rank_dies_in_the_weights_are_those_of_an_undisturbed_run(monkeypatch, beside):
    expected, calls = trained((), monkeypatch, beside)
    assert expected == trained((), monkeypatch)[0]
    assert len(expected) == 6 + 1 + 4
    ended = []
    for call in range(calls):
        try:
            assert trained((call,), monkeypatch, beside)[0] == expected, f"a death in call {call}"
        except LearnerError as error:
            ended.append((call, str(error)))
    # the first after fine-tuning: there is nothing to go back to
    assert [what for _, what in ended] == ["learner rank 0 died in save"]


def test_a_rank_that_dies_when_a_run_goes_on_is_brought_back(monkeypatch):
    monkeypatch.setattr(handle, "RankGroup", Ranks)
    learner = Learner(defaults(), Path("model"), lambda _: None)
    learner._ranks.disk[Path("step_2")] = ["weights"], {"rl_steps": 2, "sft_steps": 0, "entropy_added": 0.5}
    learner._ranks.dies = (0,)
    learner.load(Path("step_2"))
    assert learner._ranks.weights == ["weights"] and learner.position == Position(2, 0, 0.5)


def test_a_death_while_the_learner_starts_again_is_one_more_and_survived(monkeypatch):
    expected, calls = trained((), monkeypatch)
    last = calls - 2  # a learner step after a checkpoint: what follows is loading, the reference, the steps since
    for meanwhile in range(1, 4):
        assert trained((last, last + meanwhile), monkeypatch)[0] == expected
    assert trained((last, last + 1, last + 2), monkeypatch)[0] == expected


def test_a_checkpoint_whose_ranks_died_is_not_there_and_one_that_could_not_be_written_is_an_error(monkeypatch):
    cfg = defaults()
    monkeypatch.setattr(handle, "RankGroup", Ranks)
    learner = Learner(cfg, Path("model"), lambda _: None)

    def died(_: Path) -> Any:
        raise RankDied("learner rank 0 died in write_model")

    def failed() -> Any:
        raise LearnerError("learner rank 0 failed in finish_write: cannot write checkpoint")

    with monkeypatch.context() as patch:
        patch.setattr(learner._ranks, "_write_model", died)
        with pytest.raises(StopIteration) as ended:
            writing = learner.saving(Path("lost"))
            while True:
                next(writing)
        assert ended.value.value is False
    monkeypatch.setattr(learner._ranks, "_finish_write", failed)
    with pytest.raises(LearnerError, match="cannot write checkpoint"):
        list(learner.saving(Path("full")))
    assert learner._ranks.weights == [] and not learner._recovery._saved


def test_ranks_that_do_not_end_writing_are_started_again(monkeypatch):
    cfg = defaults()
    cfg.learner.deadline = 0.0
    monkeypatch.setattr(handle, "RankGroup", Ranks)
    said: list[str] = []
    learner = Learner(cfg, Path("model"), said.append)
    monkeypatch.setattr(learner._ranks, "_writing", lambda: True)
    assert list(learner.saving(Path("slow"))) == []
    assert said[0].startswith("learner rank 0 did not write its files in 0 s (learner.deadline); the learner starts")
