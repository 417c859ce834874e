"""Whether the memory of GPUs holds a configuration."""

from __future__ import annotations

import pytest

from actors.policy.sizes import ModelSize
from learner.config.load import load
from learner.figures.memory import rank_bytes
from learner.run.cards import GIB, Card, misfits

SEVEN_B = ModelSize(7_600_000_000, layers=28, width=3584, inner=18944, keys=512, vocabulary=152064)
SMOL = ModelSize(134_515_008, layers=30, width=576, inner=1536, keys=192, vocabulary=49152)
H100 = {"node": [Card("H100", 80 * GIB, 79 * GIB)]}
A40 = {"node": [Card("A40", 48 * GIB, 48 * GIB)]}
SHARED = ["learner.gpus=0.5", "actors.gpus=0.5"]
LARGE = [
    "learner.ranks=4",
    "learner.gpus=1",
    "actors.gpus=1",
    "learner.gradient_checkpointing=true",
    "model.context=8192",
]


def test_a_small_model_shares_a_card_with_its_engine():
    assert misfits(load(SHARED), SMOL, H100) is None


def test_a_large_model_on_one_card_is_refused_part_by_part_with_what_helps():
    wrong, fix = misfits(load(SHARED), SEVEN_B, H100)
    assert "optimiser 84.9 GiB" in wrong and "H100 has 80 GiB" in wrong and "learner.gpus=0.5" in wrong
    assert "learner.zero_stage=3" in fix and "learner.offload=optimizer" in fix


def test_sharded_over_four_cards_it_fits():
    assert misfits(load([*LARGE, "learner.zero_stage=3"]), SEVEN_B, A40) is None
    assert misfits(load([*LARGE, "learner.zero_stage=1"]), SEVEN_B, A40) is not None


@pytest.mark.parametrize(
    ("argument", "part", "factor"),
    [
        ("learner.zero_stage=1", "optimiser", 0.25),
        ("learner.zero_stage=2", "gradients", 0.25),
        ("learner.zero_stage=3", "weights", 0.25),
    ],
)
def test_each_stage_shards_one_part_more(argument, part, factor):
    stage = int(argument[-1])
    less = rank_bytes(load(["learner.ranks=4", f"learner.zero_stage={max(1, stage - 1)}"]), SEVEN_B)[part]
    if stage == 1:
        less = rank_bytes(load(["learner.ranks=1", argument]), SEVEN_B)[part]
    assert rank_bytes(load(["learner.ranks=4", argument]), SEVEN_B)[part] == pytest.approx(less * factor)


def test_a_reference_policy_takes_its_place_too():
    assert rank_bytes(load(["rl.kl=0.1"]), SEVEN_B)["reference"] == SEVEN_B.bytes("bfloat16")
    assert "reference" not in rank_bytes(load([]), SEVEN_B)


def test_seven_billion_parameters_with_adapters_share_one_card_of_80_gb():
    card = {"node": [Card("H100", int(79.6 * GIB), int(79.2 * GIB))]}
    given = [*SHARED, "model.context=8192", "learner.gradient_checkpointing=true", "rl.kl=0.01"]
    adapted = load([*given, "learner.lora.rank=32"])
    assert misfits(adapted, SEVEN_B, card) is None
    assert "learner.lora.rank" in misfits(load(given), SEVEN_B, card)[1]
    parts = {name: round(amount / GIB, 1) for name, amount in rank_bytes(adapted, SEVEN_B).items()}
    assert parts == {
        "weights": 14.2, "adapters": 0.3, "gradients": 0.3, "optimiser": 1.0, "activations": 14.2, "buffers": 1.0,
        "reference": 0.3,
    }  # fmt: skip
    assert (
        rank_bytes(load([*given, "learner.lora.rank=32", "learner.transfer=object_store"]), SEVEN_B)["activations"]
        < 6 * GIB
    )


def test_in_turns_each_has_the_whole_card():
    three_b = ModelSize(3_090_000_000, layers=36, width=2048, inner=11008, keys=256, vocabulary=151936)
    given = [*SHARED, "model.context=8192", "learner.gradient_checkpointing=true"]
    assert misfits(load([*given, "actors.colocate=true"]), three_b, H100) is None
    assert "actors.colocate=true" in misfits(load(given), three_b, H100)[1]
    wrong, remedy = misfits(load([*given, "actors.colocate=true"]), SEVEN_B, H100)
    assert "of which actors.colocate=true gives 72 GiB" in wrong and "actors.colocate" not in remedy


def test_adapters_are_counted_on_the_safe_side():
    """Of Qwen2.5-7B: queries and outputs 3584 × 3584, keys and values 3584 × 512, feed-forward 3 × 3584 × 18944."""
    actual = 28 * 32 * (2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944))
    assert actual <= SEVEN_B.adapter_parameters(32) < 1.2 * actual


def test_an_engine_that_is_too_large_for_its_cards_is_told_to_take_more():
    wrong, fix = misfits(load(["actors.gpus=1"]), SEVEN_B, {"node": [Card("T4", 15 * GIB, 15 * GIB)]})
    assert "T4 has 15 GiB" in wrong and "actors.gpus" in fix


def test_a_card_that_others_use_is_told():
    wrong, fix = misfits(load(SHARED), SMOL, {"a": [Card("H100", 80 * GIB, 60 * GIB)], **H100})
    assert "only 60 GiB free of 80 GiB" in wrong and "nvidia-smi" in fix


def test_without_cards_there_is_nothing_to_say():
    assert misfits(load(SHARED), SEVEN_B, {"node": []}) is None
