"""The learner, sharded and packed, against a plain loop over single sequences: Hugging Face's forward pass, autograd
and AdamW. Everything that can differ does: temperature, reference, entropy, epochs, staleness, failures.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig

from actors.policy.weights import unpack
from envs.records import Outcome, Transition
from learner.algorithm.batching import Example
from learner.algorithm.step_report import StepReport
from learner.config.defaults import defaults
from learner.config.schema import Config
from learner.ranks.handle import Learner
from tests.forked_ranks import forked
from tests.plain_objective import Said, Token, plain_advantages, plain_loss
from tests.transitions import transition

VERSION = 3
VOCABULARY = 61
STEPS = 2
LORA = {"learner.lora.rank": 4, "learner.lora.alpha": 6.0}
GPUS = 0.25 if torch.cuda.is_available() else 0.0
"""Of a learner of one rank; several live at a time."""
OBJECTIVES: dict[str, dict[str, Any]] = {
    "grpo": {"clip": 0.2, "clip_high": 0.3, "kl": 0.3, "entropy": 0.05, "aggregation": "token"},
    "rloo": {
        "clip": 0.1, "correction": "decoupled", "dual_clip": 1.3, "kl": 0.1, "entropy": 0.1, "aggregation": "sequence",
        "minibatches": 2,
    },
    "ppo": {
        "clip": 0.15, "correction": "truncated", "correction_cap": 1.1, "kl": 0.2, "entropy": 0.02,
        "aggregation": "sequence", "value_learning_rate": 0.3, "value_epochs": 2, "mask": "geometric", "mask_low": 0.8,
    },
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def processes():
    """For learners of two ranks; one rank lives in this process, which is left as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as ranks have: sums over several are rounded otherwise, which Adam makes much of
    with mock.patch.dict(os.environ), forked():
        yield
    torch.set_num_threads(threads)


def save_model(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    shape = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(shape).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture(scope="module")
def reference_dir(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("reference"), seed=1)


def configuration(algorithm: str, ranks: int, stage: int, keys: dict[str, Any]) -> Config:
    cfg = defaults()
    cfg.model.dtype, cfg.rl.algorithm, cfg.rl.temperature, cfg.rl.epochs = "float32", algorithm, 0.7, 3
    cfg.rl.learning_rate = 1e-2
    cfg.learner.ranks, cfg.learner.zero_stage, cfg.learner.row_tokens, cfg.learner.grad_clip = ranks, stage, 30, 0.5
    cfg.run.mode, cfg.learner.gpus = ("serial", GPUS) if ranks == 1 else ("ray", 0.0)
    for name, value in {**{f"rl.{name}": value for name, value in OBJECTIVES[algorithm].items()}, **keys}.items():
        OmegaConf.update(cfg, name, value)
    return cfg


class Plain:
    """What the learner should do, one sequence at a time."""

    def __init__(self, cfg: Config, model_dir: Path, reference_dir: Path, adapter: Path | None = None):
        """adapter: folder of adapters that are trained, by peft's own layers."""
        self._cfg = cfg
        self.model = AutoModelForCausalLM.from_pretrained(model_dir, attn_implementation="eager")
        self._reference = AutoModelForCausalLM.from_pretrained(reference_dir, attn_implementation="eager")
        self.before = {name: one.detach().clone() for name, one in self.model.named_parameters()}
        if adapter:
            self.model = PeftModel.from_pretrained(self.model, adapter, is_trainable=True)
        self.forget()
        width, rate = self.model.config.hidden_size, cfg.rl.value_learning_rate
        self._value, self._offset = torch.zeros(width, requires_grad=True), torch.zeros((), requires_grad=True)
        self._value_optimizer = torch.optim.Adam(
            [{"params": self._value, "lr": rate * width**-0.5}, {"params": self._offset, "lr": rate}], betas=(0.9, 0.95)
        )
        self._steps = 0

    def train(self, groups: Sequence[Sequence[Transition]]) -> list[tuple[float, float, float, list[Token]]]:
        """Of each epoch: loss, loss of V, largest gradient norm, tokens; gaps are of its first optimiser step."""
        members = [one for group in groups for one in group]
        with torch.no_grad():
            proximal, reference = ({t.id: self._said(m, t)[0] for t in members} for m in (self.model, self._reference))
        self._steps += 1
        rate = self._cfg.rl.learning_rate * min(1, self._steps / 3)
        told, self.advantages, self.gaps = [], {}, {}
        values: dict[str, torch.Tensor] = {}
        middle = -(-len(groups) // 2)
        parts = [groups[:middle], groups[middle:]] if self._cfg.rl.minibatches == 2 else [groups]
        for epoch in range(self._cfg.rl.epochs):
            of_parts = []
            for part in parts:
                said, features = {}, {}
                for one in (one for group in part for one in group):
                    logprobs, entropy, features[one.id] = self._said(self.model, one)
                    value = values.setdefault(one.id, self._worth(features[one.id]).detach())
                    said[one.id] = Said(logprobs, entropy, proximal[one.id], reference[one.id], value)
                if not epoch:
                    first = [one for group in part for one in group if _valid(one) and not of_parts]
                    self.gaps |= {one.id: self._gaps(one, said[one.id]) for one in first}
                    self.advantages |= plain_advantages(part, self._cfg.rl, said)
                policy, of_value, tokens = plain_loss(part, self._cfg.rl, said, self._cfg.model.response)
                policy.backward()
                norm = self._step(rate)
                if not epoch and self._cfg.rl.algorithm == "ppo":
                    self._learn_values(part, said, features)
                of_parts.append((policy.item(), of_value.item(), norm, tokens))
            policies, of_values, norms, tokens = zip(*of_parts, strict=True)
            told.append((sum(policies), sum(of_values), max(norms), [one for part in tokens for one in part]))
        return told

    def finetune(self, examples: Sequence[Example], rate: float) -> tuple[float, float]:
        """A step on the mean cross-entropy of the response tokens; returns it and the gradient's norm."""
        losses = []
        for one in examples:
            ids = torch.from_numpy(np.concatenate([one.prompt_ids, one.response_ids])).long()
            logits = self.model(ids[None]).logits[0, len(one.prompt_ids) - 1 : -1]
            losses.append(torch.nn.functional.cross_entropy(logits, ids[len(one.prompt_ids) :], reduction="none"))
        loss = torch.cat(losses).mean()
        loss.backward()
        return loss.item(), self._step(rate)

    def forget(self) -> None:
        """Begin with another optimiser."""
        trained = [one for one in self.model.parameters() if one.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.95), weight_decay=0.0)

    def weights(self) -> dict[str, torch.Tensor]:
        """By name in the model without adapters."""
        model = copy.deepcopy(self.model)
        return dict((model.merge_and_unload() if isinstance(model, PeftModel) else model).named_parameters())

    def _step(self, rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._cfg.learner.grad_clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return norm.item()

    @staticmethod
    def _gaps(one: Transition, said: Said) -> list[float]:
        """|difference| to what the engine said of the tokens sampled under the current version."""
        ((_, start, end),) = (span for span in one.version_spans if span[0] == VERSION)
        return np.abs(said.logprobs.detach().numpy() - one.behaviour_logprobs)[start:end].tolist()

    def _worth(self, feature: torch.Tensor) -> torch.Tensor:
        return feature @ self._value + self._offset

    def _learn_values(self, groups: Sequence[Sequence[Transition]], said: dict, features: dict) -> None:
        for _ in range(self._cfg.rl.value_epochs):
            now = {name: dataclasses.replace(its, value=self._worth(features[name])) for name, its in said.items()}
            self._value_optimizer.zero_grad()
            plain_loss(groups, self._cfg.rl, now, self._cfg.model.response)[1].backward()
            self._value_optimizer.step()

    def _said(self, model: torch.nn.Module, one: Transition) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probs and entropies at the sampling temperature, [R], and the direction of the prompt, [D]."""
        ids = torch.from_numpy(np.concatenate([one.prompt_ids, one.response_ids])).long()
        end = len(one.prompt_ids)
        output = model(ids[None], output_hidden_states=True)
        distribution = torch.distributions.Categorical(logits=output.logits[0, end - 1 : -1] / self._cfg.rl.temperature)
        hidden = output.hidden_states[-1][0, end - 1].detach()
        return distribution.log_prob(ids[end:]), distribution.entropy(), hidden / hidden.norm()


def _valid(one: Transition) -> bool:
    return one.outcome is not Outcome.INFRA_FAILURE


def batch(plain: Plain, seed: int) -> list[list[Transition]]:
    """Five groups whose prompts begin alike, one of equal rewards, with a failure in another: sampled by a policy close
    to the current one, part of the tokens by an older one."""
    rng = np.random.default_rng(seed)
    common = rng.integers(0, VOCABULARY, 7)
    groups = []
    for group, rewards in enumerate(((0, 1, 2, 3), (1, 0, 0), (2, 0, 1, 0), (1, 1), (0.5, -1))):
        prompt = np.concatenate([common[: (7, 7, 4, 0, 3)[group]], rng.integers(0, VOCABULARY, (4, 0, 6, 3, 5)[group])])
        made = []
        for member, reward in enumerate(rewards):
            length = int(rng.integers(3, 10))
            failed = (group, member) == (1, 1)
            one = transition(
                f"{group}.{member}", prompt, rng.integers(0, VOCABULARY, length), float("nan") if failed else reward,
                spans=((VERSION - 1, 0, 2), (VERSION, 2, length)),
                outcome=Outcome.INFRA_FAILURE if failed else Outcome.EDITED,
            )  # fmt: skip
            with torch.no_grad():
                logprobs = plain._said(plain.model, one)[0].numpy()
            noise = rng.normal(0, 0.3, length).astype(np.float32)
            made.append(dataclasses.replace(one, behaviour_logprobs=logprobs + noise))
        groups.append(made)
    return groups


@pytest.fixture
def learners() -> Iterator[list[Learner]]:
    started: list[Learner] = []
    yield started
    for learner in started:
        learner.close()


@pytest.mark.parametrize(
    ("algorithm", "ranks", "stage", "keys"),
    [
        ("grpo", 1, 0, {}),
        ("rloo", 1, 1, {"learner.gradient_checkpointing": True}),
        ("ppo", 1, 2, {"learner.offload": "optimizer"}),
        ("grpo", 1, 3, {"learner.offload": "all"}),
        ("ppo", 2, 0, {}),
        pytest.param("grpo", 2, 2, {}, marks=pytest.mark.long),
        ("rloo", 2, 3, {}),
        ("grpo", 1, 0, LORA),
        ("rloo", 1, 1, {**LORA, "learner.gradient_checkpointing": True}),
        ("ppo", 1, 2, {**LORA, "learner.offload": "optimizer"}),
        ("grpo", 1, 3, {**LORA, "learner.offload": "all"}),
        pytest.param("grpo", 2, 1, LORA, marks=pytest.mark.long),
        ("rloo", 2, 3, LORA),
    ],
)
def test_steps_end_with_the_parameters_of_a_plain_loop(
    learners, model_dir, reference_dir, tmp_path, algorithm, ranks, stage, keys
):
    cfg = configuration(algorithm, ranks, stage, keys)
    learner = Learner(cfg, model_dir)
    learners.append(learner)
    if cfg.learner.lora.rank:  # the reference is what they were before the first step: the model as it was given
        learner.keep_reference(tmp_path / "adapter")
        learner.hold_reference(tmp_path / "adapter")
        plain = Plain(cfg, model_dir, model_dir, tmp_path / "adapter")
    else:
        learner.hold_reference(reference_dir)
        plain = Plain(cfg, model_dir, reference_dir)
    clipped = []
    for step in range(STEPS):
        groups = batch(plain, step)
        expected = plain.train(groups)
        assert_reported(learner.train(groups, VERSION), groups, expected, plain)
        clipped.append([np.mean([one.clipped for one in tokens]) for *_, tokens in expected])
    assert all(0 < last < 1 and last > first for first, *_, last in clipped), "later epochs should be clipped"
    assert_moved_alike(learner, plain)


@pytest.mark.parametrize(("ranks", "stage"), [(1, 1), (2, 3)])
def test_finetuning_ends_with_the_parameters_of_a_plain_loop(learners, model_dir, ranks, stage):
    cfg = configuration("grpo", ranks, stage, {"sft.epochs": 3, "sft.batch": 9, "sft.learning_rate": 1e-2})
    plain, rng = Plain(cfg, model_dir, model_dir), np.random.default_rng(0)
    prompts = [rng.integers(0, VOCABULARY, length).astype(np.int32) for length in (4, 9, 9)]
    examples = [
        Example(prompts[number % 3], rng.integers(0, VOCABULARY, int(rng.integers(2, 9))).astype(np.int32))
        for number in range(9)
    ]
    learner = Learner(cfg, model_dir)
    learners.append(learner)
    steps = list(learner.finetune(examples))
    rates = [1e-2, 1e-2, 5e-3]  # one step of warm-up, then a cosine over the two that are left
    for step, rate in zip(steps, rates, strict=True):
        loss, norm = plain.finetune(examples, rate)
        assert (step.loss, step.grad_norm) == pytest.approx((loss, norm), rel=1e-3)
    assert_moved_alike(learner, plain)
    plain.forget()
    groups = batch(plain, seed=0)
    learner.hold_reference(model_dir)
    learner.train(groups, VERSION)
    plain.train(groups)
    assert_moved_alike(learner, plain)


def assert_reported(report: StepReport, groups: Sequence[Sequence[Transition]], expected: list, plain: Plain) -> None:
    """Figures of the last epoch; the advantages and the log-prob gap of the first."""
    loss, of_value, norm, tokens = expected[-1]
    close = {
        "loss": loss,
        "value_loss": of_value,
        "grad_norm": norm,
        "kl": np.mean([one.kl for one in tokens]),
        "ratio_mean": np.mean([one.ratio for one in tokens]),
        "importance_max": max(one.weight for one in tokens),
        "clip_fraction": np.mean([one.clipped for one in tokens]),
    }
    assert {name: getattr(report.update, name) for name in close} == pytest.approx(close, rel=1e-3, abs=1e-5)
    gaps = [gap for one in (one for group in groups for one in group) for gap in plain.gaps.get(one.id, ())]
    assert report.update.logprob_gap_on_current
    assert report.update.logprob_gap_mean == pytest.approx(np.mean(gaps), rel=1e-3)
    assert report.update.logprob_gap_max == pytest.approx(max(gaps), rel=1e-3)
    names = {one.response for one in tokens}
    own = {name: [one for one in tokens if one.response == name] for name in names}
    ratios = {name: np.mean([one.ratio for one in its]) for name, its in own.items()}
    parts = {name: sum(one.part for one in its) for name, its in own.items()}
    assert report.ratios == pytest.approx(ratios, rel=1e-3)
    assert report.losses == pytest.approx(parts, rel=1e-3, abs=1e-5)
    assert report.advantages == pytest.approx(plain.advantages, rel=1e-3, abs=1e-5)
    assert report.masked == 1 and report.train_tokens == sum(map(len, own.values()))


def assert_moved_alike(learner: Learner, plain: Plain) -> None:
    """What actors would receive: as far from where it began, in the same direction."""
    buckets = learner._ranks._place.get(learner.publish(5_000, 1).buckets)
    got = {name: tensor for one in buckets for name, tensor in unpack(one.meta, torch.tensor(one.data))}
    wanted = plain.weights()
    assert len(buckets) > 1 and got.keys() == wanted.keys()
    for name, before in plain.before.items():
        if torch.equal(wanted[name], before):  # it is not trained
            assert torch.equal(got[name], before), name
            continue
        error = ((got[name] - wanted[name]).norm() / (wanted[name] - before).norm()).item()
        assert error < 1e-3, f"{name}: {error:.3f} of how far it should have moved"
