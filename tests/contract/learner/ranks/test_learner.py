"""The learner over Ray and DeepSpeed, with a tiny model: what it reports, checkpoints, publishing, failures.

test_against_reference.py has what it computes. Where there is a GPU, a learner of one rank is on it. A rank that
nothing happens to lives in this process, which loads DeepSpeed once.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import ray
import torch
from omegaconf import OmegaConf
from ray.exceptions import RayActorError
from transformers import AutoModelForCausalLM, LlamaConfig

from actors.policy.weights import Bucket, checksum, restore, unpack
from envs.records import Outcome, Transition
from learner.algorithm.batching import BatchingError, Example
from learner.config.defaults import defaults
from learner.ranks.group import LearnerError
from learner.ranks.handle import Learner
from learner.ranks.publisher import Publisher
from learner.ranks.rank import Published
from learner.ranks.turns import Turns
from learner.recipe.finetuning import finetune
from tests.forked_ranks import forked
from tests.transitions import transition

VERSION = 3
GPUS = 0.25 if torch.cuda.is_available() else 0.0
"""Of a learner of one rank; several live at a time."""


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    threads = torch.get_num_threads()
    with mock.patch.dict(os.environ):
        yield
    torch.set_num_threads(threads)
    ray.shutdown()


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=199, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def build(
    model_dir: Path,
    ranks: int = 1,
    stage: int = 0,
    dtype: str = "float32",
    say: Callable[[str], None] = print,
    apart: bool = False,
    **keys,
) -> Learner:
    """apart: a single rank has a process of its own as well."""
    cfg = defaults()
    cfg.model.dtype, cfg.rl.learning_rate, cfg.sft.learning_rate = dtype, 3e-3, 1e-2
    cfg.sft.batch, cfg.sft.epochs = 4, 10
    cfg.learner.ranks, cfg.learner.zero_stage, cfg.learner.row_tokens = ranks, stage, 64
    cfg.learner.gpus = GPUS if ranks == 1 else 0.0
    cfg.run.mode = "serial" if ranks == 1 and not apart else "ray"
    for name, value in keys.items():
        OmegaConf.update(cfg, name.replace("__", "."), value)
    return Learner(cfg, model_dir, say)


@pytest.fixture
def start(model_dir):
    learners = []

    def starter(*args, **keys) -> Learner:
        learners.append(build(model_dir, *args, **keys))
        return learners[-1]

    yield starter
    for learner in learners:
        learner.close()


@pytest.fixture
def processes() -> Iterator[None]:
    """Of learners of several ranks are not Ray's."""
    with forked():
        yield


@pytest.fixture(scope="module")
def shared(model_dir):
    """One learner for the tests that do not mind what it trained on before."""
    learner = build(model_dir, 1, 1, "bfloat16")
    yield learner
    learner.close()


def step(rng, group: int, member: int, prompt: np.ndarray, reward: float, **fields: Any) -> Transition:
    length = int(rng.integers(3, 12))
    return transition(
        f"{group}.{member}", prompt, rng.integers(0, 199, length), reward, np.full(length, -5.3),
        ((VERSION - 1, 0, 2), (VERSION, 2, length)), **fields,
    )  # fmt: skip


def batch(seed: int = 0, rewards=((0, 1, 2, 3), (1, 0, 0, 1), (2, 0, 1, 0), (5, 5, 5, 5))) -> list[list[Transition]]:
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, 199, 9).astype(np.int32) for _ in rewards]
    return [
        [step(rng, i, j, prompts[i], float(reward)) for j, reward in enumerate(group)]
        for i, group in enumerate(rewards)
    ]


def kill(rank: Any) -> None:
    """Returns when it is dead; until then it may still answer a call."""
    ray.kill(rank)
    with pytest.raises(RayActorError):
        for _ in range(600):
            ray.get(rank.address.remote(), timeout=60)
            time.sleep(0.1)


def sent(learner: Learner, published: Published) -> list[Any]:
    return learner._ranks._place.get(published.buckets)


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    """What actors would receive."""
    buckets = sent(learner, learner.publish(bucket_bytes=20_000, version=1))
    assert len(buckets) > 1
    return {name: tensor for bucket in buckets for name, tensor in unpack(bucket.meta, torch.tensor(bucket.data))}


def assert_same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float) -> None:
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def test_what_a_step_reports_and_what_it_leaves_out(shared):
    groups = batch()
    rng = np.random.default_rng(9)
    failed = step(rng, 0, 9, groups[0][0].prompt_ids, float("nan"), outcome=Outcome.INFRA_FAILURE)
    report = shared.train([groups[0] + [failed], *groups[1:]], VERSION)
    assert (report.masked, report.equal_groups) == (1, 1)
    assert report.train_tokens == sum(len(t.response_ids) for group in groups for t in group)
    assert report.advantages.keys() == {t.id for group in groups for t in group}
    assert report.advantages["0.3"] > report.advantages["0.2"] > 0 == report.advantages["3.0"]
    assert report.update.logprob_gap_on_current is True
    assert 0 < report.update.logprob_gap_mean < report.update.logprob_gap_max
    assert 0 < report.update.entropy < np.log(199)


def test_a_batch_without_signal_changes_nothing(shared):
    before = weights(shared)
    report = shared.train(batch(rewards=((1, 1), (0, 0))), VERSION)
    assert (report.equal_groups, report.update, report.figures()["loss"]) == (2, None, None)
    assert_same(weights(shared), before, atol=0)


def test_repeated_steps_raise_the_likelihood_of_what_was_rewarded(shared):
    steps = [shared.train(batch(7), VERSION).update for _ in range(8)]
    assert steps[-1].loss < steps[0].loss - 0.05
    assert steps[-1].clip_fraction > 0


def test_finetuning_learns_the_examples(shared):
    rng = np.random.default_rng(0)
    examples = [
        Example(rng.integers(0, 199, 8).astype(np.int32), rng.integers(0, 199, 6).astype(np.int32)) for _ in range(6)
    ]
    steps = list(shared.finetune(examples))
    assert [step.step for step in steps] == list(range(1, 16))
    assert {step.total for step in steps} == {15}
    assert steps[0].loss == pytest.approx(np.log(199), rel=0.1)
    assert steps[-1].loss < 0.5 * steps[0].loss


class Watched:
    """In the place of the progress view: ends the run as Ctrl-C does when it is told of a step for the n-th time."""

    def __init__(self, steps: int):
        self._left = steps

    def advance(self, **_: Any) -> None:
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt

    def stage(self, *_: Any, **__: Any) -> None:
        pass

    def say(self, text: str) -> None:
        self.said = text


def test_an_interrupted_finetuning_ends_as_the_undisturbed_one(start, tmp_path):
    rng = np.random.default_rng(1)
    examples = [
        Example(rng.integers(0, 199, 8).astype(np.int32), rng.integers(0, 199, 6).astype(np.int32)) for _ in range(20)
    ]
    keys = {"sft__checkpoint_every": 2, "sft__held_out": 0.2, "sft__epochs": 5}
    found = []
    for name, interrupted in (("once", False), ("again", True)):
        folder = tmp_path / name
        folder.mkdir()
        learner = start(1, 3, "bfloat16", **keys)
        if interrupted:
            with pytest.raises(KeyboardInterrupt):
                finetune(learner.cfg, folder, learner, examples, Watched(5))
            learner.close()
            learner = start(1, 3, "bfloat16", **keys)
        view = Watched(1000)
        finetune(learner.cfg, folder, learner, examples, view)
        rows = [json.loads(line) for line in (folder / "finetune.jsonl").read_text().splitlines()]
        about = json.loads((folder / "finetune.json").read_text())
        found.append((weights(learner), [(row["step"], row["loss"]) for row in rows], about))
        learner.close()
    (once, rows, about), (again, told, other) = found
    assert_same(again, once, atol=0)
    assert rows == told and [step for step, _ in rows] == list(range(1, 21))
    assert about == other and about["held_out_examples"] == 4
    assert about["loss_before"] == pytest.approx(np.log(199), rel=0.1) and about["loss_after"] > about["loss_before"]
    assert "4 examples kept back" in view.said


@pytest.mark.parametrize(
    ("ranks", "stage", "keys"),
    [
        (1, 1, {"rl__algorithm": "ppo"}),
        pytest.param(2, 3, {}, marks=pytest.mark.long),  # test_resuming has it, too
        (1, 1, {"rl__algorithm": "ppo", "learner__lora__rank": 4}),
        (2, 3, {"learner__lora__rank": 4}),
    ],
)
def test_a_resumed_learner_goes_on_as_the_uninterrupted_one(start, processes, tmp_path, ranks, stage, keys):
    first = start(ranks, stage, "bfloat16", **keys)
    first.train(batch(0), VERSION)
    first.save(tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype="auto").state_dict()
    assert_same({name: saved[name] for name in weights(first)}, weights(first), atol=0)
    assert (tmp_path / "hf/tokenizer.json").exists()
    assert (tmp_path / "adapter/adapter_model.safetensors").exists() == ("learner__lora__rank" in keys)
    first.train(batch(1), VERSION)
    expected = weights(first)
    first.close()
    resumed = start(ranks, stage, "bfloat16", **keys)
    resumed.load(tmp_path)
    resumed.train(batch(1), VERSION)
    assert_same(weights(resumed), expected, atol=0)


def test_the_worst_tokens_are_those_of_the_largest_gap(shared):
    groups = batch()
    groups[1][2].behaviour_logprobs[2] = -30.0
    groups[0][0].behaviour_logprobs[0] = -40.0  # sampled under older weights, where a gap is no error
    worst, second, *_ = shared.train(groups, VERSION).worst_tokens
    assert (worst.transition_id, worst.position) == ("1.2", 2)
    assert worst.token == groups[1][2].response_ids[2]
    assert worst.gap == pytest.approx(worst.learner - worst.engine)
    assert worst.gap > 10 > second.gap


def test_versions_travel_as_lossless_differences_between_full_ones(start):
    learner = start(1, 1, "bfloat16", learner__full_every=3, learner__check_every=1)
    learner.cfg.rl.learning_rate = 1e-6  # few weights move by as much as a unit in their last place
    held: list[Bucket] = []
    shares = []
    for step in range(4):
        published = learner.publish(20_000, step + 1)
        received = sent(learner, published)
        held = [restore(one, old) for one, old in zip(received, held or [None] * len(received), strict=True)]
        assert [checksum(one.data) for one in held] == [one.checksum for one in received]
        shares.append(published.sent_bytes / published.full_bytes)
        learner.train(batch(step), VERSION)
    assert shares[0] == shares[2] == 1
    assert 0 < shares[1] < 0.5 and 0 < shares[3] < 0.5
    assert sent(learner, learner.publish(20_000, 9, full=True))[0].data.nbytes == held[0].data.nbytes


def test_errors_name_what_failed(start, tmp_path):
    learner = start(apart=True)
    long = step(np.random.default_rng(0), 0, 0, np.zeros(64, np.int32), 1.0)
    with pytest.raises(BatchingError, match="do not fit a row of 64"):
        learner.train([[long, *batch()[0]]], VERSION)
    with pytest.raises(LearnerError, match=f"rank 0 failed in load: cannot read checkpoint {tmp_path / 'nothing'}"):
        learner.load(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(LearnerError, match=f"rank 0 failed in save: cannot write checkpoint {tmp_path / 'file'}"):
        learner.save(tmp_path / "file")
    learner.cfg.learner.restarts = 0
    kill(learner._ranks.members[0])
    with pytest.raises(LearnerError, match="rank 0 died in policy_step"):
        learner.train(batch(), VERSION)


@pytest.mark.long  # tests/chaos/test_surviving.py has both, in a whole run
def test_a_learner_that_loses_a_rank_or_cannot_save_goes_on_as_if_nothing_had_been(start, tmp_path):
    """Between batches, one of which is not in the checkpoint: one of two ranks is killed, and later cannot write its
    part of another checkpoint while the other has entered the collective that comes after."""
    (tmp_path / "bad/state/rank_0-0000.safetensors").mkdir(parents=True)
    found, said = [], {"nothing": [], "struck": []}
    for what in said:
        learner = start(2, 1, "bfloat16", say=said[what].append)
        learner.train(batch(0), VERSION)
        learner.save(tmp_path / what)
        learner.train(batch(1), VERSION)
        if what == "struck":
            kill(learner._ranks.members[1])
        learner.train(batch(2), VERSION)
        found.append(weights(learner))
        if what == "struck":
            with pytest.raises(LearnerError, match="cannot write checkpoint"):
                learner.save(tmp_path / "bad")
        learner.train(batch(3), VERSION)
        found.append(weights(learner))
        learner.close()
    assert_same(found[2], found[0], atol=0)
    assert_same(found[3], found[1], atol=0)
    assert said["nothing"] == []
    died, failed = said["struck"]
    assert "rank 1 died in policy_step" in died and "rank 0 failed in save" in failed


def test_a_rank_that_ends_while_it_is_away_goes_on_and_what_it_published_stays(start, tmp_path):
    """Of a learner that has its card in turns (`actors.colocate`)."""
    said: list[str] = []
    learner = start(say=said.append, apart=True, actors__colocate=True)
    actors = SimpleNamespace(rest=lambda: None, wake=lambda: None, publish=lambda version, buckets: 0.0)
    publisher = Publisher(learner, actors, Turns(learner, actors), said.append)

    def data(buckets: list) -> list[bytes]:
        return [bucket.data.tobytes() for bucket in ray.get(buckets)]

    learner.save(tmp_path / "saved")
    given = weights(learner)
    learner.train(batch(), VERSION)
    publisher.publish()
    published = data(publisher.full_weights())
    kill(learner._ranks.members[0])
    assert data(publisher.full_weights()) == published
    publisher.publish()
    assert ["learner rank 0 died in wake" in one and "starts again from" in one for one in said] == [True]
    assert data(publisher.full_weights()) == published, "the step since the checkpoint was not repeated"
    assert any(not torch.equal(one, given[name]) for name, one in weights(learner).items())
