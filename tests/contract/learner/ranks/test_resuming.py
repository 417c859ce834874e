"""Ranks of any number and ZeRO stage begin with a model's weights, and go on from each other's checkpoints.

One rank lives in this process; two are forked from one.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from actors.policy.weights import unpack
from learner.config.defaults import defaults
from learner.ranks import training_state
from learner.ranks.group import LearnerError
from learner.ranks.handle import Learner
from tests.contract.learner.ranks.test_learner import VERSION, batch
from tests.forked_ranks import forked

PAIRS = [
    ("float32", (2, 3), (1, 0)), ("float32", (1, 1), (2, 3)), ("bfloat16", (2, 3), (2, 3)),
    pytest.param("bfloat16", (2, 1), (1, 3), marks=pytest.mark.long),
    pytest.param("bfloat16", (1, 0), (2, 1), marks=pytest.mark.long),
    pytest.param("float32", (2, 0), (2, 2), marks=pytest.mark.long),
    pytest.param("bfloat16", (2, 2), (1, 1), marks=pytest.mark.long),
]  # fmt: skip
"""Precision, and ranks and ZeRO stage before and after."""
CLOSE = {"float32": 1e-5, "bfloat16": 1e-2}
"""Of weights after a step of about 1e-3 each, whose gradients are summed in another order."""


@pytest.fixture(scope="module", autouse=True)
def processes():
    threads = torch.get_num_threads()
    with mock.patch.dict(os.environ), forked():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=199, hidden_size=56, intermediate_size=97, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(shape).save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.fixture
def start(model_dir) -> Iterator[Callable[..., Learner]]:
    learners = []

    def starter(ranks: int, stage: int, dtype: str, model: Path = model_dir) -> Learner:
        cfg = defaults()
        cfg.model.dtype, cfg.rl.algorithm, cfg.rl.learning_rate = dtype, "ppo", 1e-3
        cfg.learner.ranks, cfg.learner.zero_stage, cfg.learner.row_tokens = ranks, stage, 64
        cfg.run.mode = "serial" if ranks == 1 else "ray"
        learners.append(Learner(cfg, model))
        return learners[-1]

    yield starter
    for learner in learners:
        learner.close()


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    """What actors would receive."""
    buckets = learner._ranks._place.get(learner.publish(1 << 20, 1).buckets)
    return {name: one for bucket in buckets for name, one in unpack(bucket.meta, torch.tensor(bucket.data))}


def opened(folder: Path) -> Iterator[Any]:
    return (safe_open(path, framework="pt") for path in folder.glob("*.safetensors"))


def assert_close(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float) -> None:
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name].float(), expected[name].float(), rtol=0, atol=atol)


@pytest.mark.parametrize(("ranks", "stage"), [(1, 0), (1, 3), (2, 3)])
def test_the_first_weights_are_those_of_the_files(start, model_dir, tmp_path, ranks, stage):
    expected = {name: file.get_tensor(name) for file in opened(model_dir) for name in file.offset_keys()}
    learner = start(ranks, stage, "float32")
    assert_close(weights(learner), expected, atol=0)
    learner.export(tmp_path / "hf")
    assert_close(dict(AutoModelForCausalLM.from_pretrained(tmp_path / "hf").named_parameters()), expected, atol=0)


def test_files_that_do_not_hold_the_model_are_refused_at_once(model_dir, start, tmp_path):
    name = "model.layers.1.mlp.up_proj.weight"
    tensors = {name: file.get_tensor(name) for file in opened(model_dir) for name in file.offset_keys()}
    shutil.copy(model_dir / "config.json", tmp_path)
    save_file(tensors | {name: tensors[name][:-1]}, tmp_path / "model.safetensors")
    with pytest.raises(LearnerError, match=rf"{name} is \[96, 56\] in its file, and \[97, 56\] by config.json"):
        start(1, 3, "float32", model=tmp_path)


@pytest.mark.parametrize(("dtype", "before", "after"), PAIRS)
def test_ranks_of_another_number_and_stage_go_on(start, tmp_path, dtype, before, after):
    first = start(*before, dtype)
    for seed in range(2):
        first.train(batch(seed), VERSION)
    first.save(tmp_path)
    saved = weights(first)
    report = first.train(batch(2), VERSION)
    expected = weights(first)
    first.close()
    other = start(*after, dtype)
    other.load(tmp_path)
    assert_close(weights(other), saved, atol=0)
    same = other.train(batch(2), VERSION)
    assert_close(weights(other), expected, atol=0 if before == after else CLOSE[dtype])
    assert same.update.value_loss == pytest.approx(report.update.value_loss, rel=1e-3)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors", ".json"}


@pytest.mark.parametrize(
    ("dtype", "ranks", "stage"),
    [("float32", 1, 0), ("bfloat16", 1, 0), ("bfloat16", 1, 1), ("bfloat16", 1, 2), ("float32", 1, 3),
     ("bfloat16", 2, 3)],
)  # fmt: skip
def test_what_is_written_beside_training_is_what_was_there_before(start, tmp_path, monkeypatch, dtype, ranks, stage):
    """Of one rank, which lives here, nothing is written until the next step is made."""
    learner, trained, write = start(ranks, stage, dtype), threading.Event(), training_state.write

    def held(*given: Any) -> None:
        assert trained.wait(60)
        write(*given)

    monkeypatch.setattr(training_state, "write", held)
    learner.train(batch(0), VERSION)
    at_once, beside = tmp_path / "at once", tmp_path / "beside"
    saved, writing = weights(learner), learner.saving(beside)
    if ranks == 1:
        next(writing)
        assert not list(beside.rglob("*.safetensors"))
    else:
        next(writing, None)
    report = learner.train(batch(1), VERSION)
    expected = weights(learner)
    trained.set()
    for _ in writing:
        time.sleep(0.01)
    assert_close(dict(AutoModelForCausalLM.from_pretrained(beside / "hf").named_parameters()), saved, atol=0)
    learner.load(beside)
    assert_close(weights(learner), saved, atol=0)
    learner.save(at_once)
    assert {file.relative_to(beside): file.read_bytes() for file in beside.rglob("*.*")} == {
        file.relative_to(at_once): file.read_bytes() for file in at_once.rglob("*.*")
    }
    again = learner.train(batch(1), VERSION)
    assert_close(weights(learner), expected, atol=0)
    assert again.update.value_loss == report.update.value_loss


def test_training_goes_on_where_a_rank_cannot_write_and_where_it_dies_as_it_writes(start, tmp_path):
    """Of two ranks one cannot write its part, for which nobody is started again; then one hangs in a pipe, and dies."""
    learner, full, slow = start(2, 1, "float32"), tmp_path / "full", tmp_path / "slow"
    (full / "state/rank_1-0000.safetensors").mkdir(parents=True)
    (slow / "state").mkdir(parents=True)
    os.mkfifo(slow / "state/about.json")
    learner.train(batch(0), VERSION)
    learner.save(tmp_path / "last")
    with pytest.raises(LearnerError, match=f"rank 1 failed in finish_write: cannot write checkpoint {full}"):
        for _ in learner.saving(full):
            time.sleep(0.01)
    learner.train(batch(1), VERSION)
    writing = learner.saving(slow)
    next(writing)
    learner.train(batch(2), VERSION)
    next(writing)
    assert learner._recovery._restarts == 0
    learner._ranks._place.kill(learner._ranks.members[0])
    with pytest.raises(StopIteration) as ended:
        next(writing)
    assert ended.value.value is False and learner._recovery._restarts == 1
    learner.train(batch(3), VERSION)
    found = weights(learner)
    learner.load(tmp_path / "last")
    for number in (1, 2, 3):
        learner.train(batch(number), VERSION)
    assert_close(weights(learner), found, atol=0)
