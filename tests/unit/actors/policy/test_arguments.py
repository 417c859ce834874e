"""How much of a card an engine takes."""

from __future__ import annotations

import itertools
import os

import pytest

from actors.policy.arguments import (
    GIB,
    RESERVE,
    EngineMemoryError,
    batched_tokens,
    graphs_only,
    kv_cache_bytes,
    memory_share,
    set_environment,
)
from actors.policy.sizes import ModelSize
from learner.config.load import load

SEVEN_B = ModelSize(7_600_000_000, layers=28, width=3584, inner=18944, keys=512, vocabulary=152064)
SMOL = ModelSize(134_515_008, layers=30, width=576, inner=1536, keys=192, vocabulary=49152)


def test_a_pass_of_the_model_reads_a_whole_prompt_however_long():
    for context, tokens in ((1536, 2048), (4096, 4096)):
        assert batched_tokens(load([f"model.context={context}"])) == tokens
    assert batched_tokens(load(["actors.gpus=1"])) == 8192


def test_two_engines_and_a_learner_on_one_card_leave_room_to_spare():
    cfg = load(["learner.gpus=0.5", "actors.gpus=0.25", "actors.count=2"])
    assert 2 * memory_share(cfg) + cfg.learner.gpus < 1


def test_the_share_is_what_the_key_says_or_that_of_the_card():
    assert memory_share(load(["actors.gpus=1"])) == pytest.approx(0.9)
    assert memory_share(load(["actors.gpus=4"])) == pytest.approx(0.9)
    assert memory_share(load(["actors.gpus=0.5"])) == pytest.approx(0.45)
    assert memory_share(load(["actors.gpus=0.5", "actors.gpu_memory=0.2"])) == pytest.approx(0.2)


def test_weights_activations_and_cache_together_stay_within_the_share():
    cfg = load(["actors.gpus=0.5"])
    small, large = kv_cache_bytes(cfg, SMOL, 30 * GIB), kv_cache_bytes(cfg, SEVEN_B, 30 * GIB)
    assert small - large >= SEVEN_B.bytes("bfloat16") - SMOL.bytes("bfloat16")
    assert small + SMOL.bytes("bfloat16") + RESERVE < 30 * GIB
    assert kv_cache_bytes(cfg, SMOL, 20 * GIB) == small - 10 * GIB


def test_a_model_that_does_not_fit_is_refused_with_what_it_takes():
    cfg = load(["actors.gpus=0.5", "model.context=8192"])
    with pytest.raises(EngineMemoryError, match=r"16\.0 GiB of its card .* model\.context=8192: raise actors\.gpu_mem"):
        kv_cache_bytes(cfg, SEVEN_B, 16 * GIB)


def test_a_model_s_size_is_read_from_its_folder(tiny_model):
    size = ModelSize.read(tiny_model)
    assert (size.layers, size.width, size.inner, size.keys, size.vocabulary) == (2, 64, 128, 32, 49152)
    assert size.cached_bytes(10, "bfloat16") == 10 * 2 * 2 * 32 * 2


@pytest.mark.parametrize("sequences", [1, 16, 100, 256])
def test_graphs_are_recorded_for_few_numbers_of_sequences_up_to_the_most(sequences):
    sizes = graphs_only(sequences)["cudagraph_capture_sizes"]
    assert sizes[0] == 1 and sizes[-1] == sequences and len(sizes) < 10
    assert all(after <= 2 * before for before, after in itertools.pairwise(sizes))


@pytest.mark.parametrize(("gpus", "compiles"), [(0, False), (1, True)])
def test_an_engine_compiles_on_a_gpu_only(monkeypatch, gpus, compiles):
    monkeypatch.setattr(os, "environ", {})
    set_environment(load([f"actors.gpus={gpus}"]))
    assert ("TORCHDYNAMO_DISABLE" not in os.environ) == compiles


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ("actors.cpus=0.5", "1"),
        ("actors.cpus=2.5", "3"),
        ("actors.threads=4", "4"),
        ("actors.threads=2 actors.cpus=8", "8"),
    ],
)
def test_an_engine_has_a_thread_for_each_of_its_cores_and_more_where_they_are_asked_for(monkeypatch, given, threads):
    monkeypatch.setattr(os, "environ", {})
    set_environment(load(given.split()))
    assert os.environ["OMP_NUM_THREADS"] == threads
