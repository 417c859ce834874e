"""What a run takes of its machine, and what becomes of it where that is not there."""

from __future__ import annotations

import pytest

from actors.policy.sizes import ModelSize
from envs import machine
from learner.config.load import load
from learner.run.node_memory import MemoryShort, fitted, needed

SMOLLM2 = ModelSize(parameters=134_515_008, layers=30, width=576, inner=1536, keys=192, vocabulary=49152)


def total(*arguments: str) -> float:
    return sum(needed(load(["config=quickstart", "sandbox.cpus=2", *arguments]), SMOLLM2).values())


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (["actors.kv_cache_gb=2.5"], 2 * 2**30),
        (["checkpoint.beside=false"], -1.6e9),
        (["learner.lora.rank=32"], -1.6e9),
        (["sandbox.warm=4"], 2 * 150 * 2**20),
        (["model.dtype=float32"], 1e9),
        (["learner.row_tokens=4096"], 1e9),
        (["actors.count=2"], 1.5e9),
        (["learner.gradient_checkpointing=true"], -1e9),
        (["learner.gpus=1"], -3e9),
        (["actors.gpus=1"], -0.9e9),
        (["learner.gpus=0.5", "actors.gpus=0.5", "actors.colocate=true"], -2e9),
    ],
)
def test_each_part_counts(arguments, more):
    found = total(*arguments) - total()
    assert found >= more > 0 or found <= more < 0


def test_what_waits_for_its_turn_with_a_card_is_in_the_memory_of_the_host():
    """The weights twice, and 16 bytes per parameter of gradients, optimiser and its float32 copy of them."""
    shared = ("learner.gpus=0.5", "actors.gpus=0.5", "learner.transfer=object_store", "learner.zero_stage=1")
    shared = (*shared, "checkpoint.beside=false")  # in turns nothing is written beside training
    added = total(*shared, "actors.colocate=true") - total(*shared)
    assert added == pytest.approx(SMOLLM2.parameters * (2 * 2 + 16))


def test_what_fits_is_left_as_it_is():
    cfg, said = load(["config=quickstart"]), []
    assert fitted(cfg, SMOLLM2, 64e9, said.append) is cfg and not said


def test_what_takes_less_for_more_time_is_lowered_only_as_far_as_needed():
    wide = "learner.row_tokens=2048"
    cfg = load(["config=quickstart", "sandbox.cpus=2", wide])
    need, said = total(wide), []
    slightly = fitted(cfg, SMOLLM2, need - 1e8, said.append)
    assert (slightly.checkpoint.beside, slightly.sandbox.warm, slightly.learner.row_tokens) == (False, 0, 2048)
    assert len(said) == 1 and said[0].startswith("checkpoint.beside=false, since the run would need")
    more = fitted(cfg, SMOLLM2, need - 1.7e9, said.append)
    assert (more.sandbox.warm, more.learner.row_tokens) == (1, 2048)
    further = fitted(cfg, SMOLLM2, need - 2.6e9, said.append)
    assert (further.learner.row_tokens, further.learner.gradient_checkpointing) == (1536, True)
    assert cfg.sandbox.warm == 0 and not cfg.learner.gradient_checkpointing
    with pytest.raises(Exception, match="read-only"):
        further.rl.steps = 1


def test_too_little_is_told_with_what_takes_it():
    with pytest.raises(MemoryShort) as refused:
        fitted(load(["config=quickstart"]), SMOLLM2, 3 * 2**30, lambda said: None)
    assert "of memory (driver and Ray 1.21 GiB, learner " in str(refused.value)
    assert "and 3 GiB are free: close other programs" in str(refused.value)


def test_a_container_has_what_its_limit_leaves(tmp_path):
    def container(limit: str, used: int, inactive: int) -> float:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text(str(used << 20))
        (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {inactive << 20}\n")
        return machine.free_mb(tmp_path)

    assert container(str(100 << 20), 80, 30) == 50
    assert container(str(100 << 20), 120, 0) == 0
    assert container("max", 80, 0) == pytest.approx(machine.free_mb(tmp_path / "none"), rel=0.2)
