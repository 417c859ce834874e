"""What `make train` does with the GPU of the machine it is started on."""

from __future__ import annotations

import pytest

from cluster import devices
from learner.config.load import ConfigError, load
from learner.run.cards import GIB, Card

LLM = "experts.kind=llm experts.model=some/model"
H200 = [Card("H200", 141 * GIB, 140 * GIB)]


def test_a_card_is_shared_by_learner_and_actors_and_it_says_so():
    added, told = devices.choose([], "auto", H200, built_for_gpu=True)
    cfg = load(added)
    assert (cfg.learner.gpus, cfg.actors.gpus, cfg.learner.transfer) == (0.5, 0.5, "ipc") and cfg.rl.max_staleness == 2
    assert "rl.max_staleness=2" not in devices.choose(["rl.max_staleness=0"], "auto", H200, built_for_gpu=True)[0]
    assert "H200 (141 GiB)" in told and "DEVICE=cpu" in told


def test_without_a_card_nothing_is_added_or_said():
    assert devices.choose([], "auto", [], built_for_gpu=False) == ([], "")


def test_a_card_that_the_packages_cannot_use_is_named_with_what_helps():
    added, told = devices.choose([], "auto", H200, built_for_gpu=False)
    assert added == [] and "H200" in told and "DEVICE=gpu" in told
    with pytest.raises(ConfigError, match="packages for CPUs: make setup DEVICE=gpu"):
        devices.choose([], "gpu", H200, built_for_gpu=False)


def test_a_gpu_that_is_asked_for_and_not_there_is_an_error():
    with pytest.raises(ConfigError, match="no GPU on this machine"):
        devices.choose([], "gpu", [], built_for_gpu=True)


@pytest.mark.parametrize(
    ("device", "arguments"),
    [
        ("cpu", []),
        ("gpu", ["learner.gpus=0"]),
        ("auto", ["actors.gpus=1", "learner.gpus=1"]),
        ("auto", ["size=1.5b", "gpus=2"]),
        ("auto", ["config=ml-agent-7b"]),
    ],
)
def test_what_the_user_says_comes_first(monkeypatch, device, arguments):
    monkeypatch.setenv("DEVICE", device)
    monkeypatch.setattr(devices.cards, "read", lambda: H200)
    monkeypatch.setattr(devices.machine, "cores", lambda: 2.0)
    arguments = [*arguments, "model.dtype=bfloat16"]
    assert devices.settings(arguments, load(arguments)) == ([], "")


def test_more_cores_than_the_quickstart_asks_for_are_used_unless_the_user_shares_them_out():
    cfg = load(["config=quickstart"])
    added, told = devices.cores([], cfg, 8)
    assert added == ["learner.cpus=7.5", "actors.threads=8"] and "8 cores" in told
    load(["config=quickstart", *added])
    assert devices.cores([], cfg, 2) == ([], "") and devices.cores(["learner.cpus=2"], cfg, 8) == ([], "")
    for other in ("actors.count=2", "learner.cpus=3", "sandbox.hosts=1 sandbox.cpus=2 sandbox.memory_gb=4", LLM):
        assert devices.cores([], load(["config=quickstart", *other.split()]), 8) == ([], ""), other


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "flags : fpu avx avx2", ["model.dtype=float32"]),
        ("x86_64", "flags : fpu avx2 avx512f avx512bw", []),
        ("aarch64", "Features : fp asimd", ["model.dtype=float32"]),
        ("aarch64", "Features : fp asimd bf16", []),
        ("riscv64", "isa : rv64", []),
    ],
)
def test_a_cpu_without_bfloat16_computes_in_float32_and_it_says_so(machine, flags, expected):
    added, told = devices.precision(machine, f"processor : 0\n{flags}\n")
    assert added == expected and ("bfloat16" in told) == bool(expected)


def test_the_precision_of_this_machine_is_asked_for_where_no_card_is_used(monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.setattr(devices, "precision", lambda machine, cpuinfo: (["model.dtype=float32"], machine + cpuinfo))
    added, told = devices.settings([], load([]))
    assert load(added).model.dtype == "float32" and "processor" in told


def test_another_device_is_refused(monkeypatch):
    monkeypatch.setenv("DEVICE", "tpu")
    with pytest.raises(ConfigError, match="DEVICE=tpu: choose one of auto, cpu, gpu"):
        devices.settings([], load([]))
